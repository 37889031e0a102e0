//! A volume for tests, as a person would write it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use twinshore_crds::ReplicatedVolume;

use crate::context::Settings;
use crate::controller::dereference::{Data, Present, Referenced, Referent, RegionReferents};

/// The manifest of a volume with this spec.
pub fn volume_with(spec: &Value) -> ReplicatedVolume {
    serde_json::from_value(json!({
        "apiVersion": "twinshore.io/v1alpha1",
        "kind": "ReplicatedVolume",
        "metadata": {
            "name": "documents",
            "namespace": "team",
            "uid": "6f1c2f6e-3c1b-4a53-9c2e-0f0d6f3f1f11",
            "generation": 1,
        },
        "spec": spec,
    }))
    .unwrap()
}

/// A spec with two regions.
pub fn two_regions() -> Value {
    json!({
        "primary": {
            "region": "east",
            "bucket": {"name": "documents-east", "endpoint": "http://s3.east:9000"},
            "credentialsSecretRef": {"name": "keys-east"},
        },
        "target": {
            "region": "west",
            "bucket": {"name": "documents-west", "endpoint": "https://s3.west:9000", "caSecretRef": {"name": "ca-west"}},
            "credentialsSecretRef": {"name": "keys-west"},
        },
        "metadata": {"exposure": {"type": "Address", "address": "east.example.org"}},
    })
}

/// A spec with one region.
pub fn one_region() -> Value {
    let mut spec = two_regions();
    spec.as_object_mut().unwrap().remove("target");
    spec
}

/// The data of a Secret.
pub fn data(values: &[(&str, &str)]) -> Data {
    values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
        .collect::<BTreeMap<_, _>>()
}

fn found(name: &str, values: &[(&str, &str)]) -> Referent {
    Referent::Found {
        name: name.to_owned(),
        data: data(values),
    }
}

/// What [`two_regions`] refers to.
pub fn referenced(volume: &ReplicatedVolume) -> Referenced {
    Referenced {
        primary: RegionReferents {
            credentials: found("keys-east", &[("accessKey", "AKE"), ("secretKey", "hunter2")]),
            authority: Referent::NotReferred,
        },
        target: volume.spec.target.as_ref().map(|_| RegionReferents {
            credentials: found(
                "keys-west",
                &[
                    ("AWS_ACCESS_KEY_ID", "AKW\n"),
                    ("AWS_SECRET_ACCESS_KEY", "hunter3"),
                ],
            ),
            authority: found(
                "ca-west",
                &[(
                    "ca.crt",
                    "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
                )],
            ),
        }),
        present: Present::default(),
        exposed: None,
    }
}

/// Settings of an operator in a region.
pub fn settings(region: &str) -> Settings {
    Settings {
        region: region.to_owned(),
        image: "ghcr.io/twinshore/twinshore:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        node_account: Some("twinshore-system/twinshore-node".parse().unwrap()),
        controller_account: Some("twinshore-system/twinshore-controller".parse().unwrap()),
    }
}
