//! What is deleted while it is used: the volume, and the namespace in which it lies with everything that uses it.

use std::path::Path;
use std::time::Duration;

use crate::command::Run;
use crate::failure::{Failure, make_directory};
use crate::kubectl::Kubectl;
use crate::scenarios::chart::SYSTEM_NAMESPACE;
use crate::scenarios::claims::{ROLLOUT_PATIENCE, same};
use crate::scenarios::deployment::{VOLUME, resource};
use crate::scenarios::{Context, load};

use super::{WRITER, told};

/// For a namespace to be gone with everything in it: pods end, claims are given up, the provisioner tries again after at most some seconds.
const NAMESPACE_PATIENCE: Duration = Duration::from_mins(4);

pub fn steps(context: &Context) -> Result<(), Failure> {
    let (east, west) = (&context.east.kubectl, &context.west.kubectl);
    context.step(
        "a volume that is deleted while it is mounted stays, and says why",
        || {
            west.command(["delete", &resource(), "--wait=false"]).done()?;
            told(
                west,
                VOLUME,
                ["Degraded", "True", "StillInUse"],
                "delete what uses it first",
            )?;
            load::goes_on(west, WRITER, 20)
        },
    )?;
    let said = west.shell(WRITER, "echo kept > /data/of-west && sync && cat /data/of-west")?;
    context.step(
        "a namespace that is deleted takes its pods, claims and the volume along",
        || is_deleted(west),
    )?;
    context.step(
        "nothing of the other cluster notices, and what was written there is still here",
        || {
            load::goes_on(east, WRITER, 20)?;
            same(&said, &east.shell(WRITER, "cat /data/of-west")?)
        },
    )?;
    context.step(
        "the primary's namespace goes too, its metadata service first",
        || {
            load::stop(east, WRITER, &format!("{}-east-again", super::DIRECTORY))?;
            // Nothing that the driver remembers helps it.
            let system = east.in_namespace(SYSTEM_NAMESPACE);
            let controller = "--selector=app.kubernetes.io/component=csi-controller";
            let volume = east.get(&resource())?;
            is_deleted_with(east, || {
                system
                    .command(["delete", "pods", controller, "--grace-period=0", "--force"])
                    .done()?;
                Ok(())
            })?;
            system.wait_for_rollout("deployment/twinshore-controller", ROLLOUT_PATIENCE)?;
            is_restored(context, &volume)
        },
    )
}

fn is_deleted(kubectl: &Kubectl) -> Result<(), Failure> {
    is_deleted_with(kubectl, || Ok(()))
}

/// Deletes the namespace; does something as soon as that has begun; waits until it is gone.
fn is_deleted_with(
    kubectl: &Kubectl,
    meanwhile: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let namespace = format!("namespace/{}", kubectl.namespace());
    kubectl.command(["delete", &namespace, "--wait=false"]).done()?;
    meanwhile()?;
    kubectl.wait_until_gone(&namespace, NAMESPACE_PATIENCE)
}

/// Both buckets hold the volume: its metadata can be had back from either.
fn is_restored(context: &Context, volume: &serde_json::Value) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(Failure::io("find this program"))?
        .with_file_name("twinshore");
    for (cluster, side) in context.clusters().into_iter().zip(["primary", "target"]) {
        let bucket = &volume["spec"][side]["bucket"];
        let text = |field: &str| bucket[field].as_str().unwrap_or_default();
        let url = format!("{}/{}/{}", text("endpoint"), text("name"), text("prefix"));
        let directory = context.place.state().join(format!("restored-from-{side}"));
        remove_directory(&directory)?;
        make_directory(&directory)?;
        let keys = cluster.s3.keys()?;
        let target = directory.display().to_string();
        let said = Run::new(
            &program,
            ["volume", "restore", "--bucket", &url, "--metadata-dir", &target],
        )
        .environment("ACCESS_KEY", &keys.access_key)
        .environment("SECRET_KEY", &keys.secret_key)
        .patience(Duration::from_mins(2))
        .output();
        remove_directory(&directory)?;
        let said = said?;
        println!(
            "    {}: {}",
            cluster.region,
            said.lines().next().unwrap_or_default()
        );
        if !said.contains(&format!("restored {VOLUME}")) {
            return Err(Failure::wrong(format!(
                "the bucket of {} gives: {said}",
                cluster.region
            )));
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
