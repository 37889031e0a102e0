//! Pods of both clusters on claims of one volume, through the CSI driver.
//!
//! The claim of the same namespace and name in each cluster is the same directory: what a pod in one region writes, a pod in the other reads.

use serde_json::json;

use crate::address::Region;
use crate::failure::{Failure, at_once};
use crate::kubectl::{Kubectl, summary};
use crate::node::NodeHandle;
use crate::patience::Look;
use crate::scenarios::chart::{RELEASE, SYSTEM_NAMESPACE};
use crate::scenarios::claims::{
    BIND_PATIENCE, CLASS, GROUP, ROLLOUT_PATIENCE, claim, class, is_bound, remove, same, start, tell_logs,
    user_pod,
};
use crate::scenarios::deployment::{self, VOLUME};
use crate::scenarios::{Cluster, Context, POD_PATIENCE};

/// The PersistentVolume that an administrator makes.
const BY_HAND: &str = "suite-pods-by-hand";

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    if result.is_err() {
        tell_logs(context);
    }
    let removed = context.step("everything is removed again", || remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", crate::failure::chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    deployment::bring_up(context)?;
    context.step("a class, and the same claim in both clusters", || {
        at_once("make claims", &context.clusters(), |cluster| {
            cluster.kubectl.apply(&class(context).to_string())?;
            cluster
                .kubectl
                .apply(&claim("shared", "ReadWriteMany", "1Gi").to_string())?;
            is_bound(&cluster.kubectl, "shared")
        })
    })?;
    context.step("a pod on it in each cluster", || {
        at_once("start pods", &context.clusters(), |cluster| {
            let node = cluster.region.first_node();
            start(&cluster.kubectl, &user_pod("user", "shared", Some(node)))
        })
    })?;
    for (from, to) in [(&context.west, &context.east), (&context.east, &context.west)] {
        context.step(
            &format!("what {} writes {} reads", from.region, to.region),
            || exchange(from, to),
        )?;
    }
    context.step("a claim of another size in the other cluster is refused", || {
        other_size(context)
    })?;
    context.step(
        "the limit of the claim is what the pod sees, and cannot be passed",
        || limits(&context.west.kubectl),
    )?;
    context.step("the group of the pod may write, and others of it", || {
        group(&context.east.kubectl)
    })?;
    context.step(
        "a PersistentVolume made by hand shows the whole volume, read-only",
        || by_hand(&context.west.kubectl),
    )?;
    context.step("the node plugins are replaced while pods write", || {
        replace_plugins(context)
    })?;
    context.step(
        "a mount whose process was killed is made anew for the next pod",
        || kill_mount(context),
    )?;
    context.step(
        "a claim for one pod is refused to a second one, in the other cluster",
        || one_pod(&context.east.kubectl, &context.west.kubectl),
    )?;
    context.step(
        "a claim that grows, grows for the pod of the other cluster",
        || grow(&context.east.kubectl, &context.west.kubectl),
    )?;
    context.step("with the claim of one cluster the other's data stays", || {
        release_one(&context.east.kubectl, &context.west.kubectl)
    })
}

/// A small file and a large one, read where they were not written; then the small one changes.
fn exchange(from: &Cluster, to: &Cluster) -> Result<(), Failure> {
    let name = from.region.name();
    let sum = from.kubectl.shell(
        "user",
        &format!(
            "mkdir -p /data/{name} && echo one > /data/{name}/small && dd if=/dev/urandom of=/data/{name}/large bs=1M count=8 2>/dev/null \
             && sha256sum < /data/{name}/large"
        ),
    )?;
    let read = to.kubectl.shell(
        "user",
        &format!("cat /data/{name}/small && sha256sum < /data/{name}/large"),
    )?;
    same(&format!("one\n{sum}"), &read)?;
    from.kubectl
        .shell("user", &format!("echo two > /data/{name}/small"))?;
    same(
        "two",
        &to.kubectl.shell("user", &format!("cat /data/{name}/small"))?,
    )
}

/// The directory of `sized` has one size; the other cluster asks for another.
fn other_size(context: &Context) -> Result<(), Failure> {
    let east = &context.east.kubectl;
    east.apply(&claim("sized", "ReadWriteMany", "1Gi").to_string())?;
    is_bound(east, "sized")?;
    let west = &context.west.kubectl;
    west.apply(&claim("sized", "ReadWriteMany", "2Gi").to_string())?;
    west.wait_for_event("sized", "ask for the same size in every cluster", BIND_PATIENCE)?;
    Ok(())
}

fn limits(kubectl: &Kubectl) -> Result<(), Failure> {
    let blocks = kubectl.shell("user", "df -k /data | tail -n 1 | awk '{print $2}'")?;
    same("1048576", &blocks)
}

/// What one user of the group makes, the group owns.
fn group(kubectl: &Kubectl) -> Result<(), Failure> {
    let made = kubectl.shell("user", "touch /data/of-group && stat -c %g /data/of-group /data")?;
    same(&format!("{GROUP}\n{GROUP}"), &made)
}

/// The whole volume, without a claim on any of it.
fn by_hand(kubectl: &Kubectl) -> Result<(), Failure> {
    let namespace = kubectl.namespace();
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": BY_HAND },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": { "storage": "1Gi" },
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "csi": {
                "driver": "csi.twinshore.io",
                "volumeHandle": BY_HAND,
                "volumeAttributes": { "twinshore.io/volume": format!("{namespace}/{VOLUME}") },
            },
        },
    });
    kubectl.apply(&volume.to_string())?;
    let mut whole = claim("whole", "ReadOnlyMany", "1Gi");
    whole["spec"]["volumeName"] = json!(BY_HAND);
    kubectl.apply(&whole.to_string())?;
    is_bound(kubectl, "whole")?;
    let mut pod = user_pod("whole", "whole", None);
    // The root of a volume is not given to a group by a pod that may not write.
    pod["spec"]["securityContext"] = json!({ "runAsUser": 1000, "runAsGroup": 1000 });
    start(kubectl, &pod)?;
    let script =
        format!("cat /data/{namespace}/shared/west/small; touch /data/x 2>/dev/null || echo refused");
    same("two\nrefused", &kubectl.shell("whole", &script)?)?;
    kubectl.delete("pod/whole")?;
    kubectl.delete("persistentvolumeclaim/whole")?;
    kubectl.delete(&format!("persistentvolume/{BY_HAND}"))
}

/// Pods write a line every tenth of a second, while every plugin's pod is deleted. No write fails, and no line is missing.
fn replace_plugins(context: &Context) -> Result<(), Failure> {
    for cluster in context.clusters() {
        cluster.kubectl.shell(
            "user",
            &format!(
                "rm -f /data/{0}-*; (i=0; while [ ! -e /data/{0}-stop ]; do i=$((i+1)); echo $i >> /data/{0}-lines || echo $i >> /tmp/failed; \
                 sleep 0.1; done; echo $i > /data/{0}-count) > /dev/null 2>&1 &",
                cluster.region
            ),
        )?;
    }
    at_once("replace plugins", &context.clusters(), |cluster| {
        let system = cluster.kubectl.in_namespace(SYSTEM_NAMESPACE);
        system
            .command([
                "delete",
                "pods",
                "--selector=app.kubernetes.io/component=csi-node",
                "--grace-period=0",
                "--force",
            ])
            .done()?;
        system.wait_for_rollout(&format!("daemonset/{RELEASE}-node"), ROLLOUT_PATIENCE)
    })?;
    for cluster in context.clusters() {
        let region = cluster.region;
        let script = format!(
            "touch /data/{region}-stop; while [ ! -s /data/{region}-count ]; do sleep 0.1; done; [ ! -e /tmp/failed ] || cat /tmp/failed; \
             cat /data/{region}-count; wc -l < /data/{region}-lines"
        );
        let said = cluster.kubectl.shell("user", &script)?;
        let numbers: Vec<&str> = said.split_whitespace().collect();
        if numbers.len() != 2 || numbers[0] != numbers[1] {
            return Err(Failure::wrong(format!("{region}: lines are missing: {said}")));
        }
    }
    // The new plugins work with the mounts that they found.
    let node = Region::East.first_node();
    start(&context.east.kubectl, &user_pod("later", "shared", Some(node)))?;
    same(
        "two",
        &context.east.kubectl.shell("later", "cat /data/west/small")?,
    )
}

/// Programs get errors instead of waiting for ever, and the next pod finds a mount that works.
fn kill_mount(context: &Context) -> Result<(), Failure> {
    const KILL: &str = "for process in /proc/[0-9]*; do if tr '\\0' ' ' < $process/cmdline | grep -q -- ' --device-from-[s]tdin '; then kill -9 \
                        ${process#/proc/}; fi; done";
    let kubectl = &context.west.kubectl;
    let node = NodeHandle::of(&context.place, Region::West.first_node());
    node.run(["sh", "-c", KILL])?.done()?;
    let failed = kubectl.exec_run("user", ["cat", "/data/east/small"]).output();
    if let Ok(said) = failed {
        return Err(Failure::wrong(format!("the mount still answers: {said}")));
    }
    start(kubectl, &user_pod("anew", "shared", None))?;
    same("two", &kubectl.shell("anew", "cat /data/east/small")?)?;
    kubectl.delete("pod/anew")?;
    kubectl.delete("pod/user")?;
    start(kubectl, &user_pod("user", "shared", None))
}

/// `ReadWriteOncePod` holds in both clusters: the scheduler of one knows nothing of the other.
fn one_pod(east: &Kubectl, west: &Kubectl) -> Result<(), Failure> {
    for kubectl in [east, west] {
        kubectl.apply(&claim("single", "ReadWriteOncePod", "100Mi").to_string())?;
        is_bound(kubectl, "single")?;
    }
    start(east, &user_pod("first", "single", None))?;
    let second = user_pod("second", "single", None);
    west.apply(&second.to_string())?;
    west.wait_for_event("second", "ReadWriteOncePod is not possible", BIND_PATIENCE)?;
    east.delete("pod/first")?;
    west.wait_for_pod("second", POD_PATIENCE)?;
    west.delete("pod/second")
}

fn grow(east: &Kubectl, west: &Kubectl) -> Result<(), Failure> {
    let patch = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    east.command(["patch", "persistentvolumeclaim/shared", "--patch", patch])
        .done()?;
    east.wait_until("persistentvolumeclaim/shared", BIND_PATIENCE, |claim| {
        Look::at(claim["status"]["capacity"]["storage"] == "2Gi", summary(claim))
    })?;
    crate::patience::wait_for(
        "the pod of the other cluster to see it",
        BIND_PATIENCE,
        || match west.shell("user", "df -k /data | tail -n 1 | awk '{print $2}'") {
            Ok(blocks) => Look::at(blocks.trim() == "2097152", blocks),
            Err(error) => Look::NotYet(crate::failure::chain(&error)),
        },
    )?;
    Ok(())
}

/// The directory goes with its last claim only.
fn release_one(east: &Kubectl, west: &Kubectl) -> Result<(), Failure> {
    let volume = east.get("persistentvolumeclaim/shared")?["spec"]["volumeName"].clone();
    for pod in ["user", "later"] {
        east.delete(&format!("pod/{pod}"))?;
    }
    east.delete("persistentvolumeclaim/shared")?;
    let volume = volume.as_str().unwrap_or_default();
    east.wait_until_gone(&format!("persistentvolume/{volume}"), BIND_PATIENCE)?;
    same("two", &west.shell("user", "cat /data/east/small")?)
}
