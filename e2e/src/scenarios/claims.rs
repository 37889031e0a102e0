//! Claims and the pods that use them: what suites about pods have in common.

use std::time::Duration;

use serde_json::{Value, json};

use crate::address::Node;
use crate::failure::{Failure, at_once};
use crate::kubectl::{Kubectl, summary};
use crate::patience::Look;
use crate::scenarios::chart::SYSTEM_NAMESPACE;
use crate::scenarios::deployment::{self, VOLUME};
use crate::scenarios::{Context, POD_PATIENCE, busybox_pod};

/// The class of claims that are shared.
pub const CLASS: &str = "suite-pods";

/// Of everything that suites about pods make: the volume's own pods and claims lie beside it.
const LABEL: &str = "claims-suite";

/// For a claim to be bound: one call to the metadata service, of the other region.
pub const BIND_PATIENCE: Duration = Duration::from_mins(1);

/// For a daemon set to be replaced: its pods end and start.
pub const ROLLOUT_PATIENCE: Duration = Duration::from_mins(2);

/// The group of the pods that share a claim.
pub const GROUP: u32 = 2000;

/// The class of claims on the volume.
pub fn class(context: &Context) -> Value {
    let namespace = context.east.kubectl.namespace();
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": CLASS },
        "provisioner": "csi.twinshore.io",
        "parameters": { "volume": format!("{namespace}/{VOLUME}") },
        "allowVolumeExpansion": true,
    })
}

/// A claim of that class.
pub fn claim(name: &str, mode: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": name, "labels": { LABEL: "yes" } },
        "spec": {
            "storageClassName": CLASS,
            "accessModes": [mode],
            "resources": { "requests": { "storage": size } },
        },
    })
}

/// Waits until a claim has its volume.
pub fn is_bound(kubectl: &Kubectl, name: &str) -> Result<(), Failure> {
    kubectl.wait_until(&format!("persistentvolumeclaim/{name}"), BIND_PATIENCE, |claim| {
        Look::at(claim["status"]["phase"] == "Bound", summary(claim))
    })
}

/// A pod of an ordinary user, with a claim at `/data`.
pub fn user_pod(name: &str, claim: &str, node: Option<Node>) -> Value {
    let node = node.map(|node| node.to_string());
    let mut pod = busybox_pod(name, "exec sleep 1000000", node.as_deref(), "64Mi");
    pod["metadata"]["labels"][LABEL] = json!("yes");
    pod["spec"]["securityContext"] = json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": GROUP });
    pod["spec"]["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    pod
}

/// Starts a pod and waits until it is ready.
pub fn start(kubectl: &Kubectl, pod: &Value) -> Result<(), Failure> {
    kubectl.apply(&pod.to_string())?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    kubectl.wait_for_pod(name, POD_PATIENCE)
}

/// Compares what was found with what should be there.
pub fn same(expected: &str, found: &str) -> Result<(), Failure> {
    if expected.trim_end() == found.trim_end() {
        return Ok(());
    }
    Err(Failure::wrong(format!("expected {expected:?}, found {found:?}")))
}

/// Removes pods and claims, then the volume and the chart.
pub fn remove(context: &Context) -> Result<(), Failure> {
    let claims = at_once("remove pods and claims", &context.clusters(), |cluster| {
        remove_claims(&cluster.kubectl)
    });
    claims.and(deployment::remove(context))
}

fn remove_claims(kubectl: &Kubectl) -> Result<(), Failure> {
    for kind in ["pods", "persistentvolumeclaims"] {
        let ours = format!("--selector={LABEL}");
        kubectl
            .command(["delete", kind, &ours, "--timeout=90s"])
            .patience(Duration::from_secs(100))
            .done()?;
    }
    crate::patience::wait_for(
        &format!("persistentvolumes of {CLASS} to be gone"),
        BIND_PATIENCE,
        || {
            let path = "{.items[*].spec.storageClassName}";
            match kubectl.say(&format!("get persistentvolumes --output=jsonpath={path}")) {
                Ok(said) => Look::at(!said.contains(CLASS), said),
                Err(error) => Look::NotYet(crate::failure::chain(&error)),
            }
        },
    )?;
    kubectl.delete(&format!("storageclass/{CLASS}"))
}

/// What the driver has said, for whoever looks for the reason of a failure.
pub fn tell_logs(context: &Context) {
    const LINES: &str = "--tail=40";
    for cluster in context.clusters() {
        let system = cluster.kubectl.in_namespace(SYSTEM_NAMESPACE);
        for component in ["csi-controller", "csi-node", "csi-mounter"] {
            let selector = format!("--selector=app.kubernetes.io/component={component}");
            let said = system
                .command(["logs", &selector, "--all-containers", "--prefix", LINES])
                .output()
                .unwrap_or_else(|error| error.to_string());
            println!("{component} in {}:\n{said}", cluster.region);
        }
    }
}
