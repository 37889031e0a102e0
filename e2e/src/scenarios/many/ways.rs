//! `subPath`, generic ephemeral volumes, and a node that loses power.

use std::time::Duration;

use serde_json::json;

use crate::address::{Node, Region};
use crate::failure::{Failure, chain};
use crate::kubectl::{Kubectl, summary};
use crate::node::NodeHandle;
use crate::patience::{Look, wait_for};
use crate::scenarios::claims::{BIND_PATIENCE, claim, is_bound, same, start, user_pod};
use crate::scenarios::deployment::VOLUME;
use crate::scenarios::{Context, POD_PATIENCE};

use super::CLAIM;

/// The class of volumes that live as long as their pod.
const EPHEMERAL_CLASS: &str = "suite-many-ephemeral";

/// For a node to be there again, with its pods: it starts its components, and waits for those of the cluster.
const NODE_PATIENCE: Duration = Duration::from_mins(4);

pub fn steps(context: &Context) -> Result<(), Failure> {
    let east = &context.east.kubectl;
    context.step(
        "subPath: a pod sees one directory of the claim, made for it",
        || sub_path(east),
    )?;
    let result = context.step("a generic ephemeral volume lives as long as its pod", || {
        ephemeral(context)
    });
    east.delete(&format!("storageclass/{EPHEMERAL_CLASS}"))?;
    result?;
    context.step(
        "a node that lost power: its pods are back with their volumes, nothing of the old ones is left",
        || reboot(context),
    )
}

fn sub_path(kubectl: &Kubectl) -> Result<(), Failure> {
    let mut pod = user_pod("sub-path", CLAIM, None);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "data", "mountPath": "/part", "subPath": "parts/one" },
        { "name": "data", "mountPath": "/data" },
    ]);
    start(kubectl, &pod)?;
    let said = kubectl.shell(
        "sub-path",
        "echo part > /part/file && cat /data/parts/one/file && ls /part",
    )?;
    same("part\nfile", &said)?;
    // The kubelet looks at what was removed before it takes the mount away.
    kubectl.shell("sub-path", "rm -r /data/parts")?;
    kubectl.delete("pod/sub-path")
}

fn ephemeral(context: &Context) -> Result<(), Failure> {
    let kubectl = &context.east.kubectl;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": EPHEMERAL_CLASS },
        "provisioner": "csi.twinshore.io",
        "parameters": { "volume": format!("{}/{VOLUME}", kubectl.namespace()), "sharing": "Private" },
    });
    kubectl.apply(&class.to_string())?;
    let mut pod = user_pod("passing", "none", None);
    pod["spec"]["volumes"] = json!([{ "name": "data", "ephemeral": { "volumeClaimTemplate": { "spec": {
        "storageClassName": EPHEMERAL_CLASS,
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "16Mi" } },
    } } } }]);
    start(kubectl, &pod)?;
    same(
        "16384",
        &kubectl.shell("passing", "df -k /data | tail -n 1 | awk '{print $2}'")?,
    )?;
    kubectl.shell("passing", "echo x > /data/x")?;
    let claim = kubectl.get("persistentvolumeclaim/passing-data")?;
    let volume = claim["spec"]["volumeName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    kubectl.delete("pod/passing")?;
    kubectl.wait_until_gone("persistentvolumeclaim/passing-data", BIND_PATIENCE)?;
    kubectl.wait_until_gone(&format!("persistentvolume/{volume}"), BIND_PATIENCE)
}

/// West's only node. What it held alone, it holds again; what is no longer wanted is free for the other cluster.
fn reboot(context: &Context) -> Result<(), Failure> {
    let (east, west) = (&context.east.kubectl, &context.west.kubectl);
    for kubectl in [east, west] {
        kubectl.apply(&claim("alone", "ReadWriteOncePod", "16Mi").to_string())?;
        is_bound(kubectl, "alone")?;
    }
    let node = Region::West.first_node();
    let mut pod = user_pod("survivor", "alone", Some(node));
    pod["spec"]["restartPolicy"] = json!("Always");
    start(west, &pod)?;
    west.shell("survivor", "echo kept > /data/kept && sync")?;
    let handle = NodeHandle::of(&context.place, node);
    handle.kill()?;
    handle.start()?;
    is_back(west, node)?;
    wait_for("the pod to use its volume again", NODE_PATIENCE, || {
        match west.shell("survivor", "cat /data/kept") {
            Ok(said) => Look::at(said == "kept", said),
            Err(error) => Look::NotYet(chain(&error)),
        }
    })?;
    west.delete("pod/survivor")?;
    let left = "grep ' fuse.twinshore ' /proc/1/mountinfo; find /var/lib/kubelet/plugins/csi.twinshore.io/volumes -mindepth 2";
    wait_for("nothing to be mounted on the node", POD_PATIENCE, || match handle
        .run(["sh", "-c", left])
        .and_then(|run| Ok(run.output()?))
    {
        Ok(said) => Look::at(said.is_empty(), said),
        Err(error) => Look::NotYet(chain(&error)),
    })?;
    start(east, &user_pod("heir", "alone", None))?;
    same("kept", &east.shell("heir", "cat /data/kept")?)?;
    east.delete("pod/heir")
}

fn is_back(kubectl: &Kubectl, node: Node) -> Result<(), Failure> {
    let path = format!("get --raw /api/v1/nodes/{node}/proxy/healthz");
    wait_for(
        &format!("the kubelet of {node}"),
        NODE_PATIENCE,
        || match kubectl.say(&path) {
            Ok(said) => Look::at(said == "ok", said),
            Err(error) => Look::NotYet(chain(&error)),
        },
    )?;
    kubectl.wait_until(&format!("node/{node}"), NODE_PATIENCE, |found| {
        let is_ready =
            crate::kubectl::condition_of(found, "Ready").is_some_and(|ready| ready["status"] == "True");
        Look::at(is_ready, summary(found))
    })
}
