//! The chart, installed by Helm into a real API server, and the operator with just the rights that it gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod operator;

use std::path::Path;
use std::process::Command;

use cluster::{Cluster, bare_cluster, program};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use operator::{Operator, Space, volume};

const NAMESPACE: &str = "twinshore-system";

/// Runs helm; what it says, or its error.
fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program("helm"))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["--namespace", NAMESPACE])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

fn chart() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/twinshore");
    chart.display().to_string()
}

/// One test, as one release has one life.
#[tokio::test]
async fn a_release_is_installed_upgraded_and_removed_and_gives_the_operator_what_it_needs() {
    let cluster = bare_cluster().await;
    let client = cluster.admin();

    let refused = helm(cluster, &["install", "twinshore", &chart()]).unwrap_err();
    assert!(refused.contains("/region"), "{refused}");
    let refused = helm(
        cluster,
        &["install", "twinshore", &chart(), "--set", "region=east,unknown=1"],
    )
    .unwrap_err();
    assert!(refused.contains("unknown"), "{refused}");

    let install = [
        "install",
        "twinshore",
        &chart(),
        "--create-namespace",
        "--set",
        "region=east",
    ];
    let notes = helm(cluster, &install).unwrap();
    assert!(
        notes.contains("looks after the volumes of region east"),
        "{notes}"
    );
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = definitions.get("replicatedvolumes.twinshore.io").await.unwrap();
    assert_eq!(definition.annotations()["helm.sh/resource-policy"], "keep");

    // The rights of the whole cluster.
    reconciles_with_the_rights_of(cluster, "everywhere").await;

    // Rights in one namespace, by an upgrade.
    let space = "only-here";
    cluster.namespace(space).await;
    let narrow = format!("operator.watchNamespaces={{{space}}}");
    helm(
        cluster,
        &[
            "upgrade",
            "twinshore",
            &chart(),
            "--reuse-values",
            "--set",
            &narrow,
        ],
    )
    .unwrap();
    let account = account_client(cluster).await;
    let elsewhere: Api<Secret> = Api::namespaced(account.clone(), "default");
    let refusal = elsewhere.list(&ListParams::default()).await.unwrap_err();
    assert!(refusal.to_string().contains("forbidden"), "{refusal}");
    let here: Api<Secret> = Api::namespaced(account, space);
    here.list(&ListParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = deployments.get("twinshore-operator").await.unwrap();
    let environment = deployment.spec.unwrap().template.spec.unwrap().containers[0]
        .env
        .clone()
        .unwrap();
    let watched = environment
        .iter()
        .find(|variable| variable.name == "TWINSHORE_WATCH_NAMESPACES")
        .unwrap();
    assert_eq!(watched.value.as_deref(), Some(space));

    helm(cluster, &["uninstall", "twinshore"]).unwrap();
    assert!(deployments.get_opt("twinshore-operator").await.unwrap().is_none());
    // The volumes outlive the release.
    definitions.get("replicatedvolumes.twinshore.io").await.unwrap();
}

/// A client with the token of the operator's service account.
async fn account_client(cluster: &Cluster) -> kube::Client {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin(), NAMESPACE);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request("twinshore-operator", &PostParams::default(), &request)
        .await
        .unwrap();
    cluster.client(&token.status.unwrap().token)
}

/// A volume is brought up, and let go, by an operator with just the rights of the release.
async fn reconciles_with_the_rights_of(cluster: &Cluster, namespace: &str) {
    let space = Space::new(cluster, namespace).await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start_as(account_client(cluster).await, &space, "east");
    space.apply(&volume("documents")).await;
    let _: StatefulSet = space.wait("documents-metadata").await;
    let _: Deployment = space.wait("documents-worker").await;
    let _: Secret = space.wait("documents-join").await;
    space.condition("documents", "MetadataReady", "False").await;
    space.delete_volume("documents").await;
    space.wait_volume_gone("documents").await;
    operator.stop().await;
}
