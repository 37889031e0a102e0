//! The conformance tests of the Container Storage Interface, `csi-sanity`, against the driver as the chart installs it: in the target region, where the metadata
//! service is on the other shore.

use std::time::Duration;

use serde_json::{Value, json};

use crate::address::Node;
use crate::failure::Failure;
use crate::node::NodeHandle;
use crate::scenarios::Context;
use crate::scenarios::chart::SYSTEM_NAMESPACE;
use crate::scenarios::deployment::{self, VOLUME};

/// For all of them: 80 calls or so across the ocean for each of some 80 tests, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(8);

/// Where the kubelet's things are, in the node.
const KUBELET: &str = "/var/lib/kubelet";

/// Where the tests mount, in the node: only what is below the kubelet's directory is let in.
const PLACE: &str = "/var/lib/kubelet/csi-sanity";

/// Why the tool leaves tests out. Any other reason fails the suite.
const LEFT_OUT: [&str; 9] = [
    // Volumes are not attached to nodes.
    "Controller Publish, UnpublishVolume not supported",
    "ControllerPublishVolume not supported",
    "ControllerUnpublishVolume not supported",
    // The capacity of a bucket is not known.
    "GetCapacity not supported",
    // A volume grows in the metadata service.
    "NodeExpandVolume not supported",
    // No volume has parameters that change yet.
    "ControllerModifyVolume not supported",
    "Modify Volume not supported",
    "Modify volume not supported",
    // No snapshots of several volumes at one moment.
    "GroupControllerService not supported",
];

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    let removed = context.step("everything is removed again", || deployment::remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", crate::failure::chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    deployment::bring_up(context)?;
    let said = context.step("csi-sanity", || sanity(context))?;
    println!("  {}", summary(&said).unwrap_or("it said no summary"));
    for reason in reasons(&said) {
        println!("  left out: {reason}");
    }
    context.step("nothing else is left out", || {
        let unknown: Vec<&str> = reasons(&said)
            .into_iter()
            .filter(|reason| !LEFT_OUT.contains(reason))
            .collect();
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(Failure::wrong(format!("left out too: {}", unknown.join("; "))))
        }
    })
}

fn sanity(context: &Context) -> Result<String, Failure> {
    let kubectl = &context.west.kubectl;
    let system = kubectl.in_namespace(SYSTEM_NAMESPACE);
    let selector = "--selector=app.kubernetes.io/component=csi-controller";
    let said = system
        .command(["get", "pods", selector, "--output=json"])
        .output()?;
    let pods: Value = serde_json::from_str(&said)
        .map_err(|error| Failure::wrong(format!("kubectl get pods said no JSON: {error}")))?;
    let (pod, node) = running(&pods)?;
    let handle = NodeHandle::of(&context.place, node);
    let parameters = json!({
        "volume": format!("{}/{VOLUME}", kubectl.namespace()),
        "directory": "sanity/{pv}",
    });
    handle
        .run([
            "sh",
            "-c",
            &format!("mkdir -p {PLACE} && cat > {PLACE}/parameters.yaml"),
        ])?
        .input(parameters.to_string())
        .done()?;
    let program = context.place.programs()?.join("csi-sanity");
    let controller = format!("unix://{KUBELET}/pods/{pod}/volumes/kubernetes.io~empty-dir/socket/csi.sock");
    let arguments = [
        program.display().to_string(),
        format!("--csi.endpoint=unix://{KUBELET}/plugins/csi.twinshore.io/csi.sock"),
        format!("--csi.controllerendpoint={controller}"),
        format!("--csi.mountdir={PLACE}/mount"),
        format!("--csi.stagingdir={PLACE}/staging"),
        format!("--csi.testvolumeparameters={PLACE}/parameters.yaml"),
        "--ginkgo.v".to_owned(),
        "--ginkgo.no-color".to_owned(),
    ];
    // It says more than a message repeats.
    let script = format!("{} > {PLACE}/said 2>&1 || echo failed", arguments.join(" "));
    let result = handle.run(["sh", "-c", &script])?.patience(PATIENCE).output()?;
    let said = handle.run(["cat", &format!("{PLACE}/said")])?.output()?;
    if result.is_empty() {
        return Ok(said);
    }
    let failures: Vec<&str> = said.lines().filter(|line| line.contains("[FAIL")).collect();
    for line in said.lines().filter(|line| line.contains("rpc error")) {
        println!("  {}", line.trim());
    }
    Err(Failure::wrong(format!(
        "{}; {}",
        summary(&said).unwrap_or("no summary"),
        failures.join("; ")
    )))
}

/// The identity and the node of the pod that runs.
fn running(pods: &Value) -> Result<(String, Node), Failure> {
    pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|pod| {
            let uid = pod["metadata"]["uid"].as_str()?;
            let node = Node::named(pod["spec"]["nodeName"].as_str()?)?;
            (pod["status"]["phase"] == "Running").then(|| (uid.to_owned(), node))
        })
        .ok_or_else(|| Failure::wrong("no pod of the controller runs"))
}

/// `Ran 78 of 92 Specs in 12.3 seconds` and `SUCCESS! -- 78 Passed | ...`.
fn summary(said: &str) -> Option<&str> {
    said.lines().rev().find(|line| line.contains(" Passed | "))
}

/// Why tests were left out, each reason once.
fn reasons(said: &str) -> Vec<&str> {
    let mut reasons: Vec<&str> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[SKIPPED] "))
        // Where in the tool; how long it took.
        .filter(|line| !line.starts_with("in [") && !line.starts_with('['))
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_read_from_what_the_tool_says() {
        let said = "S [SKIPPED] [0.001 seconds]\n  [SKIPPED] NodeExpandVolume not supported\n  [SKIPPED] in [BeforeEach] - x.go:1\n\
                    SUCCESS! -- 78 Passed | 0 Failed | 1 Pending | 13 Skipped\n";
        assert_eq!(reasons(said), ["NodeExpandVolume not supported"]);
        assert!(summary(said).is_some_and(|line| line.starts_with("SUCCESS")));
    }
}
