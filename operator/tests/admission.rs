//! Every rule of the resource, by a real API server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Long tables.
#![allow(clippy::too_many_lines)]

mod cluster;

use cluster::cluster;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use twinshore_crds::ReplicatedVolume;

/// Paths of the spec and what they are set to.
type Changes = Vec<(&'static str, Value)>;

fn base() -> Value {
    json!({
        "primary": {"region": "east", "bucket": {"name": "documents-east", "endpoint": "http://s3.east:9000"}},
        "target": {"region": "west", "bucket": {"name": "documents-west", "endpoint": "https://s3.west:9000"}},
    })
}

/// The base with changes: `a.b` set to a value, or removed by null.
fn changed(changes: &[(&str, Value)]) -> Value {
    let mut spec = base();
    for (path, value) in changes {
        let mut at = &mut spec;
        let (parents, last) = path
            .rsplit_once('.')
            .map_or(("", *path), |(parents, last)| (parents, last));
        for part in parents.split('.').filter(|part| !part.is_empty()) {
            if at.get(part).is_none() {
                at[part] = json!({});
            }
            at = &mut at[part];
        }
        if value.is_null() {
            at.as_object_mut().unwrap().remove(last);
        } else {
            at[last] = value.clone();
        }
    }
    spec
}

fn api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    // Untyped: what the types cannot express is sent as well.
    Api::namespaced_with(
        client.clone(),
        namespace,
        &ApiResource::erase::<ReplicatedVolume>(&()),
    )
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "twinshore.io/v1alpha1",
        "kind": "ReplicatedVolume",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .unwrap()
}

fn refusal(result: Result<DynamicObject, kube::Error>) -> Option<String> {
    match result {
        Ok(_) => None,
        Err(kube::Error::Api(response)) => Some(response.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_volume_with_defaults_is_accepted_and_gets_them() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("defaults").await;
    let volumes = api(&cluster.admin(), &namespace);
    let created = volumes
        .create(&PostParams::default(), &object("documents", &base()))
        .await
        .unwrap();
    let spec = &created.data["spec"];
    for (path, expected) in [
        ("/durability", json!("Close")),
        ("/compression", json!("None")),
        ("/trashRetention", json!("24h")),
        ("/deletionPolicy", json!("Retain")),
        ("/paused", json!(false)),
        ("/metadata/storage/size", json!("10Gi")),
        ("/metadata/exposure/type", json!("LoadBalancer")),
        ("/replication/enabled", json!(true)),
        ("/replication/workers", json!(1)),
        ("/replication/synchronisationInterval", json!("168h")),
        ("/cache/size", json!("10Gi")),
        ("/primary/bucket/addressingStyle", json!("Auto")),
    ] {
        assert_eq!(spec.pointer(path), Some(&expected), "{path} of {spec:#}");
    }
    let typed: ReplicatedVolume = created.try_parse().unwrap();
    assert_eq!(typed.spec.target.unwrap().region, "west");
}

#[tokio::test]
async fn what_can_be_refused_at_admission_is_refused_with_a_reason() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("refused").await;
    let volumes = api(&cluster.admin(), &namespace);
    let cases: Vec<(&str, Changes, &str)> = vec![
        (
            "regions",
            vec![("target.region", json!("east"))],
            "primary and target are two regions",
        ),
        (
            "region",
            vec![("primary.region", json!("East"))],
            "spec.primary.region",
        ),
        (
            "region-long",
            vec![("primary.region", json!("e".repeat(64)))],
            "spec.primary.region",
        ),
        ("no-primary", vec![("primary", Value::Null)], "spec.primary"),
        (
            "no-region",
            vec![("primary.region", Value::Null)],
            "spec.primary.region",
        ),
        (
            "same-bucket",
            vec![
                ("target.bucket.name", json!("documents-east")),
                ("target.bucket.endpoint", json!("http://s3.east:9000")),
            ],
            "buckets of their own",
        ),
        (
            "bucket-name",
            vec![("primary.bucket.name", json!("Documents"))],
            "spec.primary.bucket.name",
        ),
        (
            "bucket-short",
            vec![("primary.bucket.name", json!("ab"))],
            "spec.primary.bucket.name",
        ),
        (
            "endpoint-path",
            vec![("primary.bucket.endpoint", json!("http://s3/bucket"))],
            "spec.primary.bucket.endpoint",
        ),
        (
            "endpoint-keys",
            vec![("primary.bucket.endpoint", json!("http://a:b@s3:9000"))],
            "spec.primary.bucket.endpoint",
        ),
        (
            "endpoint-scheme",
            vec![("primary.bucket.endpoint", json!("s3://bucket"))],
            "spec.primary.bucket.endpoint",
        ),
        (
            "no-store",
            vec![("primary.bucket.endpoint", Value::Null)],
            "name the store",
        ),
        (
            "prefix-dots",
            vec![("primary.bucket.prefix", json!("a/../b"))],
            "no part of a prefix",
        ),
        (
            "prefix-slash",
            vec![("primary.bucket.prefix", json!("/a"))],
            "spec.primary.bucket.prefix",
        ),
        (
            "ca-http",
            vec![("primary.bucket.caSecretRef", json!({"name": "ca"}))],
            "a certificate authority needs an endpoint that begins with https://",
        ),
        (
            "virtual-host",
            vec![
                ("primary.bucket.endpoint", Value::Null),
                ("primary.bucket.signingRegion", json!("eu-west-1")),
                ("primary.bucket.name", json!("a.b.c")),
                ("primary.bucket.addressingStyle", json!("VirtualHost")),
            ],
            "a bucket with a dot in its name",
        ),
        (
            "style",
            vec![("primary.bucket.addressingStyle", json!("Other"))],
            "Unsupported value",
        ),
        (
            "secret-name",
            vec![("primary.credentialsSecretRef", json!({"name": ""}))],
            "credentialsSecretRef.name",
        ),
        (
            "hidden",
            vec![("metadata.exposure.type", json!("None"))],
            "the other region must reach the metadata service",
        ),
        (
            "address",
            vec![("metadata.exposure.type", json!("Address"))],
            "the type Address needs an address",
        ),
        (
            "node-port",
            vec![("metadata.exposure.type", json!("NodePort"))],
            "the type NodePort needs an address",
        ),
        (
            "address-for-nobody",
            vec![
                ("target", Value::Null),
                ("metadata.exposure", json!({"type": "None", "address": "a"})),
            ],
            "nothing is exposed",
        ),
        (
            "port",
            vec![("metadata.exposure", json!({"port": 7700}))],
            "a port can be chosen",
        ),
        (
            "low-node-port",
            vec![(
                "metadata.exposure",
                json!({"type": "NodePort", "address": "a", "port": 80}),
            )],
            "a node port is 1024 or above",
        ),
        (
            "port-range",
            vec![(
                "metadata.exposure",
                json!({"type": "Address", "address": "a", "port": 70000}),
            )],
            "metadata.exposure.port",
        ),
        (
            "annotations",
            vec![(
                "metadata.exposure",
                json!({"type": "Address", "address": "a", "annotations": {"a": "b"}}),
            )],
            "annotations are those of the Service",
        ),
        (
            "disk",
            vec![("metadata.storage.size", json!("1Mi"))],
            "at least 256Mi",
        ),
        (
            "disk-text",
            vec![("metadata.storage.size", json!("much"))],
            "spec.metadata.storage.size",
        ),
        (
            "workers",
            vec![("replication.workers", json!(65))],
            "spec.replication.workers",
        ),
        (
            "workers-negative",
            vec![("replication.workers", json!(-1))],
            "spec.replication.workers",
        ),
        (
            "slots",
            vec![("replication.slots", json!(0))],
            "spec.replication.slots",
        ),
        (
            "worker-memory",
            vec![("replication.memory", json!("1Mi"))],
            "between 64Mi and 1Ti",
        ),
        (
            "bandwidth",
            vec![("replication.bandwidthLimit", json!("1"))],
            "at least 64Ki per second",
        ),
        (
            "interval",
            vec![("replication.synchronisationInterval", json!("1m"))],
            "between 1h and 8760h",
        ),
        (
            "interval-long",
            vec![("replication.synchronisationInterval", json!("9000h"))],
            "between 1h and 8760h",
        ),
        (
            "durability",
            vec![("durability", json!("Both"))],
            "Unsupported value",
        ),
        (
            "compression",
            vec![("compression", json!("Gzip"))],
            "Unsupported value",
        ),
        (
            "quota-empty",
            vec![("quota", json!({}))],
            "a quota limits the size, the inodes, or both",
        ),
        ("quota-zero", vec![("quota.size", json!("0"))], "more than 0"),
        (
            "quota-inodes",
            vec![("quota.inodes", json!(0))],
            "spec.quota.inodes",
        ),
        ("cache", vec![("cache.size", json!("200Ti"))], "at most 100Ti"),
        (
            "cache-memory",
            vec![("cache.memory", json!("1Mi"))],
            "between 64Mi and 1Ti",
        ),
        (
            "trash",
            vec![("trashRetention", json!("9000h"))],
            "at most a year",
        ),
        (
            "trash-days",
            vec![("trashRetention", json!("1d"))],
            "spec.trashRetention",
        ),
        (
            "policy",
            vec![("deletionPolicy", json!("Maybe"))],
            "Unsupported value",
        ),
        (
            "a-name-that-is-too-long-for-its-services-and-sets",
            vec![],
            "at most 40 lower case letters",
        ),
        ("1-begins-with-a-digit", vec![], "at most 40 lower case letters"),
        ("with.dots", vec![], "at most 40 lower case letters"),
    ];
    for (name, changes, expected) in cases {
        let result = volumes
            .create(&PostParams::default(), &object(name, &changed(&changes)))
            .await;
        let message = refusal(result).unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(
            message.contains(expected),
            "{name}: expected {expected:?} in {message}"
        );
    }
}

#[tokio::test]
async fn what_is_right_is_accepted() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("accepted").await;
    let volumes = api(&cluster.admin(), &namespace);
    let cases: Vec<(&str, Changes)> = vec![
        (
            "one-region",
            vec![("target", Value::Null), ("metadata.exposure.type", json!("None"))],
        ),
        (
            "aws",
            vec![
                ("primary.bucket.endpoint", Value::Null),
                ("primary.bucket.signingRegion", json!("eu-west-1")),
                ("primary.bucket.prefix", json!("team/documents")),
            ],
        ),
        (
            "same-name-elsewhere",
            vec![("target.bucket.name", json!("documents-east"))],
        ),
        (
            "same-bucket-other-prefix",
            vec![
                ("target.bucket.name", json!("documents-east")),
                ("target.bucket.endpoint", json!("http://s3.east:9000")),
                ("target.bucket.prefix", json!("west")),
            ],
        ),
        (
            "node-port",
            vec![(
                "metadata.exposure",
                json!({"type": "NodePort", "address": "10.0.0.1", "port": 30700}),
            )],
        ),
        (
            "address-v6",
            vec![(
                "metadata.exposure",
                json!({"type": "Address", "address": "fd00::1"}),
            )],
        ),
        (
            "never",
            vec![
                ("replication.synchronisationInterval", json!("0s")),
                ("trashRetention", json!("0s")),
            ],
        ),
        ("quota", vec![("quota", json!({"size": "1Ti", "inodes": 5}))]),
        ("no-cache", vec![("cache.size", json!("0"))]),
        (
            "pods",
            vec![(
                "replication.pod",
                json!({
                    "resources": {"limits": {"memory": "1Gi"}},
                    "nodeSelector": {"a": "b"},
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
                }),
            )],
        ),
        ("exactly-forty-characters-of-name-is-fine", vec![]),
    ];
    for (name, changes) in cases {
        let result = volumes
            .create(&PostParams::default(), &object(name, &changed(&changes)))
            .await;
        assert_eq!(refusal(result), None, "{name}");
    }
}

#[tokio::test]
async fn what_must_not_change_cannot_be_changed() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("immutable").await;
    let volumes = api(&cluster.admin(), &namespace);
    let cases: Vec<(&str, Changes, Changes, Option<&str>)> = vec![
        (
            "region",
            vec![],
            vec![("primary.region", json!("north"))],
            Some("a region cannot be renamed"),
        ),
        (
            "target-region",
            vec![],
            vec![("target.region", json!("north"))],
            Some("a region cannot be renamed"),
        ),
        (
            "bucket",
            vec![],
            vec![("primary.bucket.name", json!("other"))],
            Some("cannot move to another bucket"),
        ),
        (
            "target-bucket",
            vec![],
            vec![("target.bucket.name", json!("other"))],
            Some("cannot move to another bucket"),
        ),
        (
            "endpoint",
            vec![],
            vec![("primary.bucket.endpoint", json!("http://other"))],
            Some("cannot move to another endpoint"),
        ),
        (
            "prefix-added",
            vec![],
            vec![("primary.bucket.prefix", json!("a"))],
            Some("cannot move to another prefix"),
        ),
        (
            "prefix-removed",
            vec![("primary.bucket.prefix", json!("a"))],
            vec![],
            Some("cannot move to another prefix"),
        ),
        (
            "aws-region",
            vec![
                ("primary.bucket.endpoint", Value::Null),
                ("primary.bucket.signingRegion", json!("eu-west-1")),
            ],
            vec![
                ("primary.bucket.endpoint", Value::Null),
                ("primary.bucket.signingRegion", json!("eu-west-2")),
            ],
            Some("a bucket of AWS cannot move"),
        ),
        (
            "target-removed",
            vec![],
            vec![("target", Value::Null)],
            Some("a target cannot be removed"),
        ),
        (
            "disk-shrinks",
            vec![],
            vec![("metadata.storage.size", json!("1Gi"))],
            Some("a disk can grow, but not shrink"),
        ),
        (
            "disk-class",
            vec![],
            vec![("metadata.storage.className", json!("fast"))],
            Some("another storage class"),
        ),
        (
            "disk-class-removed",
            vec![("metadata.storage.className", json!("fast"))],
            vec![],
            Some("another storage class"),
        ),
        (
            "disk-grows",
            vec![],
            vec![("metadata.storage.size", json!("20Gi"))],
            None,
        ),
        ("target-added", vec![("target", Value::Null)], vec![], None),
        (
            "keys-rotate",
            vec![],
            vec![("primary.credentialsSecretRef", json!({"name": "new"}))],
            None,
        ),
        (
            "settings",
            vec![],
            vec![
                ("compression", json!("Zstd")),
                ("durability", json!("Fsync")),
                ("replication.enabled", json!(false)),
                ("paused", json!(true)),
                ("quota", json!({"size": "1Gi"})),
            ],
            None,
        ),
    ];
    for (name, before, after, expected) in cases {
        let created = volumes
            .create(&PostParams::default(), &object(name, &changed(&before)))
            .await
            .unwrap();
        let mut replacement = object(name, &changed(&after));
        replacement.metadata.resource_version = created.metadata.resource_version;
        let message = refusal(volumes.replace(name, &PostParams::default(), &replacement).await);
        match expected {
            None => assert_eq!(message, None, "{name}"),
            Some(text) => {
                let message = message.unwrap_or_else(|| panic!("{name} was accepted"));
                assert!(message.contains(text), "{name}: expected {text:?} in {message}");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_field_is_refused_when_fields_are_checked_strictly() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("unknown").await;
    let volumes = api(&cluster.admin(), &namespace);
    let spec = changed(&[("replication.worker", json!(3))]);
    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("test")
    };
    let result = volumes
        .patch("documents", &strict, &Patch::Apply(&object("documents", &spec)))
        .await;
    let message = refusal(result).unwrap();
    assert!(message.contains("worker"), "{message}");
}
