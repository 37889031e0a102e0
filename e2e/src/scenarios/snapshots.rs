//! Clones, snapshots and what is restored from them, through the objects of Kubernetes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::image::catalog::SNAPSHOT_CONTROLLER;
use crate::kubectl::Kubectl;
use crate::patience::Look;
use crate::scenarios::chart::SYSTEM_NAMESPACE;
use crate::scenarios::claims::{BIND_PATIENCE, claim, class, is_bound, same, start, user_pod};
use crate::scenarios::deployment;
use crate::scenarios::{Context, claims};

/// The class of snapshots.
const SNAPSHOT_CLASS: &str = "suite-snapshots";

/// For a snapshot to be complete.
const SNAPSHOT_PATIENCE: Duration = Duration::from_mins(1);

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    if result.is_err() {
        claims::tell_logs(context);
    }
    let removed = context.step("everything is removed again", || remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", crate::failure::chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    let west = &context.west.kubectl;
    context.step("the API of snapshots, which the chart finds", || {
        install_api(context, west)
    })?;
    deployment::bring_up(context)?;
    context.step("a claim with files, in the target region", || {
        west.apply(&class(context).to_string())?;
        west.apply(&snapshot_class().to_string())?;
        west.apply(&claim("original", "ReadWriteMany", "1Gi").to_string())?;
        start(west, &user_pod("writer", "original", None))?;
        west.shell(
            "writer",
            "mkdir -p /data/d && echo one > /data/d/small && dd if=/dev/urandom of=/data/large bs=1M count=4 2>/dev/null && ln -s d/small /data/link",
        )?;
        Ok(())
    })?;
    let sum = west.shell("writer", "sha256sum < /data/large")?;
    context.step("a snapshot, and then the files change", || {
        west.apply(&snapshot("moment", "original").to_string())?;
        west.wait_until("volumesnapshot/moment", SNAPSHOT_PATIENCE, |snapshot| {
            Look::at(
                snapshot["status"]["readyToUse"] == true,
                snapshot["status"].to_string(),
            )
        })?;
        west.shell("writer", "echo two > /data/d/small && rm /data/large")?;
        Ok(())
    })?;
    context.step("a claim made of the snapshot holds what was there", || {
        let source =
            json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "moment" });
        from(west, "restored", &source)?;
        start(west, &user_pod("restored", "restored", None))?;
        let said = west.shell("restored", "cat /data/link && sha256sum < /data/large")?;
        same(&format!("one\n{sum}"), &said)
    })?;
    context.step("a clone holds what is there now, and is another", || {
        let source = json!({ "kind": "PersistentVolumeClaim", "name": "original" });
        from(west, "cloned", &source)?;
        start(west, &user_pod("cloned", "cloned", None))?;
        west.shell(
            "cloned",
            "[ ! -e /data/large ] && cat /data/link && echo three > /data/d/small",
        )?;
        same("two", &west.shell("writer", "cat /data/d/small")?)
    })?;
    context.step("the snapshot outlives the claim that it was made of", || {
        west.delete("pod/writer")?;
        west.delete("persistentvolumeclaim/original")?;
        let source =
            json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "moment" });
        from(west, "again", &source)?;
        start(west, &user_pod("again", "again", None))?;
        same(&sum, &west.shell("again", "sha256sum < /data/large")?)
    })?;
    context.step("a snapshot is deleted", || west.delete("volumesnapshot/moment"))
}

/// The definitions and the controller, which belong to a cluster, not to a driver.
pub fn install_api(context: &Context, kubectl: &Kubectl) -> Result<(), Failure> {
    // kubectl takes a link to a directory for a file.
    let link = context.place.programs()?.join("snapshot-definitions");
    let definitions = std::fs::canonicalize(&link).map_err(Failure::file("find", &link))?;
    kubectl
        .command([
            "apply",
            "--server-side",
            "--filename",
            &definitions.display().to_string(),
        ])
        .done()?;
    let system = kubectl.in_namespace(SYSTEM_NAMESPACE);
    system.ensure_namespace()?;
    system.apply(&controller().to_string())?;
    system.wait_for_rollout("deployment/snapshot-controller", claims::ROLLOUT_PATIENCE)
}

/// The controller of snapshots, as an administrator of a cluster runs it; with all rights, as only what it does matters here.
fn controller() -> Value {
    let labels = json!({ "app": "snapshot-controller" });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "snapshot-controller" } },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "suite-snapshot-controller" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": "snapshot-controller", "namespace": SYSTEM_NAMESPACE }],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "snapshot-controller" },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "serviceAccountName": "snapshot-controller",
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "main",
                            "image": SNAPSHOT_CONTROLLER,
                            "imagePullPolicy": "Never",
                            "args": ["--leader-election=false"],
                        }],
                    },
                },
            },
        },
    ] })
}

fn snapshot_class() -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": { "name": SNAPSHOT_CLASS },
        "driver": "csi.twinshore.io",
        "deletionPolicy": "Delete",
    })
}

fn snapshot(name: &str, of: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": { "name": name },
        "spec": { "volumeSnapshotClassName": SNAPSHOT_CLASS, "source": { "persistentVolumeClaimName": of } },
    })
}

/// A claim that begins as a copy.
fn from(kubectl: &Kubectl, name: &str, source: &Value) -> Result<(), Failure> {
    let mut copy = claim(name, "ReadWriteMany", "1Gi");
    copy["spec"]["dataSource"] = source.clone();
    kubectl.apply(&copy.to_string())?;
    is_bound(kubectl, name)
}

fn remove(context: &Context) -> Result<(), Failure> {
    let west = &context.west.kubectl;
    // Without the definition there are none to ask for.
    if west
        .find("customresourcedefinition/volumesnapshots.snapshot.storage.k8s.io")?
        .is_some()
    {
        west.command(["delete", "volumesnapshots", "--all", "--timeout=60s"])
            .patience(BIND_PATIENCE + BIND_PATIENCE)
            .done()?;
    }
    claims::remove(context)?;
    remove_api(west)
}

/// Removes the API of snapshots again.
pub fn remove_api(kubectl: &Kubectl) -> Result<(), Failure> {
    kubectl.delete("clusterrolebinding/suite-snapshot-controller")?;
    for kind in [
        "volumesnapshotclasses",
        "volumesnapshotcontents",
        "volumesnapshots",
    ] {
        kubectl.delete(&format!(
            "customresourcedefinition/{kind}.snapshot.storage.k8s.io"
        ))?;
    }
    Ok(())
}
