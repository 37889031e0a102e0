#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::fixtures::{data, one_region, referenced, two_regions, volume_with};

fn valid(spec: &serde_json::Value, change: impl FnOnce(&mut Referenced)) -> Result<Validated, ValidateError> {
    let volume = volume_with(spec);
    let mut referenced = referenced(&volume);
    change(&mut referenced);
    validate(&volume, referenced, "east", Side::Primary)
}

#[test]
fn a_region_decides_what_a_cluster_is() {
    let volume = volume_with(&two_regions());
    assert_eq!(side_of(&volume, "east"), Some(Side::Primary));
    assert_eq!(side_of(&volume, "west"), Some(Side::Target));
    assert_eq!(side_of(&volume, "north"), None);
    assert_eq!(side_of(&volume_with(&one_region()), "west"), None);
}

#[test]
fn keys_of_both_forms_become_credentials_files() {
    let validated = valid(&two_regions(), |_| {}).unwrap();
    assert_eq!(
        validated.primary.credentials.as_deref(),
        Some("access_key=AKE\nsecret_key=hunter2\n")
    );
    assert_eq!(
        validated.target.unwrap().credentials.as_deref(),
        Some("access_key=AKW\nsecret_key=hunter3\n")
    );
    assert!(
        validated
            .bucket_authorities
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
}

#[test]
fn what_is_wrong_with_a_secret_is_told_with_the_field_that_names_it() {
    let cases: [(Referent, Reason, &str); 4] = [
        (
            Referent::Missing {
                name: "keys".to_owned(),
            },
            Reason::SecretNotFound,
            "the Secret keys of spec.primary.credentialsSecretRef does not exist",
        ),
        (
            Referent::Found {
                name: "keys".to_owned(),
                data: data(&[("accessKey", "A")]),
            },
            Reason::SecretInvalid,
            "has neither the key secretKey nor AWS_SECRET_ACCESS_KEY",
        ),
        (
            Referent::Found {
                name: "keys".to_owned(),
                data: data(&[("accessKey", ""), ("secretKey", "S")]),
            },
            Reason::SecretInvalid,
            "a key accessKey that is empty",
        ),
        (
            Referent::Found {
                name: "keys".to_owned(),
                data: data(&[("accessKey", "A"), ("secretKey", "S\nx=y")]),
            },
            Reason::SecretInvalid,
            "a key secretKey that is empty or not one line",
        ),
    ];
    for (referent, reason, text) in cases {
        let error = valid(&two_regions(), |referenced| {
            referenced.primary.credentials = referent;
        })
        .err()
        .unwrap();
        assert_eq!(error.reason(), reason);
        assert!(error.to_string().contains(text), "{error}");
        assert!(
            !error.to_string().contains("x=y"),
            "a value of a Secret is shown: {error}"
        );
    }
}

#[test]
fn a_target_without_its_bundle_is_told_how_to_get_it() {
    let volume = volume_with(&two_regions());
    let error = validate(&volume, referenced(&volume), "west", Side::Target)
        .err()
        .unwrap();
    assert_eq!(error.reason(), Reason::JoinBundleMissing);
    let text = error.to_string();
    assert!(
        text.contains(
            "kubectl --context east -n team get secret documents-join -o jsonpath='{.data.manifest}'"
        ),
        "{text}"
    );
}

#[test]
fn the_other_region_comes_in_where_the_service_says() {
    let spec = |value: serde_json::Value| -> ExposureSpec { serde_json::from_value(value).unwrap() };
    let service = |value: serde_json::Value| -> Service { serde_json::from_value(value).unwrap() };
    let balanced = service(json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}}}));
    let on_nodes = service(json!({"spec": {"ports": [{"port": 7700, "nodePort": 31234}]}}));
    let at = |host: &str, port| Exposure::At {
        host: host.to_owned(),
        port,
    };
    let cases = [
        (json!({"type": "None"}), None, Exposure::No),
        (json!({"type": "LoadBalancer"}), None, Exposure::Waiting),
        (
            json!({"type": "LoadBalancer"}),
            Some(&balanced),
            at("10.0.0.9", 7700),
        ),
        (
            json!({"type": "LoadBalancer", "address": "meta.example.org"}),
            Some(&balanced),
            at("meta.example.org", 7700),
        ),
        (
            json!({"type": "NodePort", "address": "n1"}),
            None,
            Exposure::Waiting,
        ),
        (
            json!({"type": "NodePort", "address": "n1"}),
            Some(&on_nodes),
            at("n1", 31234),
        ),
        (
            json!({"type": "NodePort", "address": "n1", "port": 30700}),
            None,
            at("n1", 30700),
        ),
        (
            json!({"type": "Address", "address": "fd00::1"}),
            None,
            at("fd00::1", 7700),
        ),
        (
            json!({"type": "Address", "address": "a", "port": 443}),
            None,
            at("a", 443),
        ),
    ];
    for (value, service, expected) in cases {
        assert_eq!(exposure(&spec(value.clone()), service), expected, "{value}");
    }
    assert_eq!(authority_of("fd00::1", 7700), "[fd00::1]:7700");
    assert_eq!(authority_of("a", 1), "a:1");
}

#[test]
fn an_affinity_that_is_none_is_told_with_its_field() {
    let mut spec = two_regions();
    spec["replication"] = json!({"pod": {"affinity": {"nodeAffinity": "text"}}});
    let error = valid(&spec, |_| {}).err().unwrap();
    assert_eq!(error.reason(), Reason::InvalidSpec);
    assert!(
        error.to_string().contains("spec.replication.pod.affinity"),
        "{error}"
    );
}
