//! An object that cannot be read stops nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod operator;

use cluster::{bare_cluster, eventually};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use operator::{Operator, Space, volume};
use serde_json::json;

#[tokio::test]
async fn a_volume_that_cannot_be_read_gets_an_event_and_the_others_go_on() {
    let cluster = bare_cluster().await;
    // A definition that lets everything through, as one of another release might.
    let mut definition = twinshore_crds::yaml::definition().unwrap();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.admin());
    definitions
        .patch(
            "replicatedvolumes.twinshore.io",
            &PatchParams::apply("test").force(),
            &Patch::Apply(&definition),
        )
        .await
        .unwrap();
    cluster::established(&cluster.admin()).await;
    let space = Space::new(cluster, "broken").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let mut broken = volume("broken");
    broken["spec"]["primary"] = json!("a region");
    space.apply(&broken).await;
    let operator = Operator::start(&space, "east");
    let told = eventually("an event", || async {
        let events = space.all::<Event>().await;
        events.into_iter().find(|event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            regarding.name.as_deref() == Some("broken") && event.reason.as_deref() == Some("InvalidSpec")
        })
    });
    told.await;
    let mut whole = volume("whole");
    // What the definition's defaults would fill in; the types have the same.
    whole["spec"]["compression"] = json!("Lz4");
    space.apply(&whole).await;
    let _: StatefulSet = space.wait("whole-metadata").await;
    // Repaired, it is looked after like the others.
    space.apply(&volume("broken")).await;
    let _: StatefulSet = space.wait("broken-metadata").await;
    operator.stop().await;
}
