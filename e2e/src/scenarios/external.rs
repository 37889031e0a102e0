//! Kubernetes' own suite for storage drivers that are not part of it, against the driver in the cluster with two nodes. It is told everything that the driver can do, so
//! that it leaves out only what cannot be; what it leaves out is counted by reason.

mod images;
mod outcome;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::address::Node;
use crate::command::Run;
use crate::failure::{Failure, chain, write_file};
use crate::scenarios::claims;
use crate::scenarios::deployment::{self, VOLUME};
use crate::scenarios::{Context, snapshots};

use outcome::Outcome;

/// Where its programs are: `cargo xtask lab suites` builds them.
const PROGRAMS_VARIABLE: &str = "TWINSHORE_LAB_STORAGE_SUITE";

/// Only some of it, as a regular expression of its names.
const FOCUS_VARIABLE: &str = "TWINSHORE_LAB_STORAGE_FOCUS";

/// The classes that it copies for its tests.
const CLASS: &str = "suite-external";
const SNAPSHOT_CLASS: &str = "suite-external-snapshots";

/// For all of it: some hundred tests of some dozen seconds.
const PATIENCE: Duration = Duration::from_hours(2);

/// What is not selected: what needs features that are off by default, and what takes nodes away or needs the cluster for itself.
const LEFT_OUT: &str = r"\[Feature:|\[Disruptive\]|\[Serial\]|\[Slow\]";

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    let removed = context.step("everything is removed again", || remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    let programs = std::env::var_os(PROGRAMS_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(|| Failure::Missing {
            what: "the suite's programs are not there".to_owned(),
            remedy: "`cargo xtask lab suites external-storage` builds them".to_owned(),
        })?;
    let east = &context.east.kubectl;
    context.step("the images of its pods in every node", || {
        images::load(&context.place, &programs.join("agnhost"))
    })?;
    context.step("the API of snapshots, which the chart finds", || {
        snapshots::install_api(context, east)
    })?;
    deployment::bring_up(context)?;
    context.step("the classes", || {
        for class in classes(context) {
            east.apply(&class.to_string())?;
        }
        Ok(())
    })?;
    let outcome = context.step("the suite", || external(context, &programs))?;
    outcome.print();
    context.step("every test that was run passed, and some were", || {
        outcome.is_good()
    })
}

fn classes(context: &Context) -> [serde_json::Value; 2] {
    let namespace = context.east.kubectl.namespace();
    [
        json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": { "name": CLASS },
            "provisioner": "csi.twinshore.io",
            "parameters": { "volume": format!("{namespace}/{VOLUME}"), "sharing": "Private" },
            "allowVolumeExpansion": true,
        }),
        json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotClass",
            "metadata": { "name": SNAPSHOT_CLASS },
            "driver": "csi.twinshore.io",
            "deletionPolicy": "Delete",
        }),
    ]
}

/// What the driver can do, in the words of the suite.
fn driver() -> serde_json::Value {
    json!({
        "StorageClass": { "FromExistingClassName": CLASS },
        "SnapshotClass": { "FromExistingClassName": SNAPSHOT_CLASS },
        "DriverInfo": {
            "Name": "csi.twinshore.io",
            "SupportedFsType": { "": {} },
            "SupportedSizeRange": { "Min": "1Mi", "Max": "10Gi" },
            "SupportedMountOption": { "noatime": {} },
            "Capabilities": {
                "persistence": true,
                "block": false,
                "fsGroup": true,
                "volumeMountGroup": true,
                "exec": true,
                "snapshotDataSource": true,
                "pvcDataSource": true,
                "multipods": true,
                "RWX": true,
                "capReadOnlyMany": true,
                "readWriteOncePod": true,
                "controllerExpansion": true,
                "nodeExpansion": false,
                "offlineExpansion": true,
                "onlineExpansion": true,
                "multiplePVsSameID": true,
            },
        },
    })
}

fn external(context: &Context, programs: &std::path::Path) -> Result<Outcome, Failure> {
    let place = context.place.state().join("external-storage");
    let [driver_file, report, log] = ["driver.json", "report.json", "log"].map(|name| place.join(name));
    write_file(&driver_file, driver().to_string())?;
    let kubectl = context.place.programs()?.join("kubectl");
    let focus = std::env::var(FOCUS_VARIABLE).unwrap_or_else(|_| "External.Storage".to_owned());
    let option = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
    let arguments = [
        option("kubeconfig", &context.place.kubeconfig().display()),
        option("context", &context.east.region),
        option("kubectl-path", &kubectl.display()),
        option("storage.testdriver", &driver_file.display()),
        option("node-os-distro", &"debian"),
        option("num-nodes", &context.east.region.nodes().count()),
        option("ginkgo.focus", &focus),
        option("ginkgo.skip", &LEFT_OUT),
        option("ginkgo.timeout", &format!("{}s", PATIENCE.as_secs())),
        option("ginkgo.json-report", &report.display()),
        "-ginkgo.v".to_owned(),
        "-ginkgo.no-color".to_owned(),
        "-test.timeout=0".to_owned(),
    ];
    // It says more than a message repeats, and how it ended is in the report.
    let script = "log=$1; shift; exec \"$@\" > \"$log\" 2>&1";
    let words = [
        "-c".to_owned(),
        script.to_owned(),
        "sh".to_owned(),
        log.display().to_string(),
        programs.join("storage.test").display().to_string(),
    ];
    println!("  it says everything in {}", log.display());
    let ended = Run::new("sh", words.iter().chain(&arguments))
        .patience(PATIENCE + Duration::from_mins(5))
        .done();
    match Outcome::read(&report) {
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(ended.err().map_or(error, Failure::from)),
    }
}

fn remove(context: &Context) -> Result<(), Failure> {
    let east = &context.east.kubectl;
    east.delete(&format!("storageclass/{CLASS}"))?;
    claims::remove(context)?;
    snapshots::remove_api(east)
}

/// All nodes of the cluster that is tested.
fn nodes() -> Vec<Node> {
    crate::address::Region::East.nodes().collect()
}
