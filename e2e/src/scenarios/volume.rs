//! One volume in two clusters: the chart in both, the same resource in both, the join bundle handed over; the metadata service and the workers that
//! the operators make of it speak to each other with the volume's certificates.

use crate::failure::Failure;
use crate::kubectl::{Kubectl, condition_of, summary};
use crate::patience::Look;
use crate::scenarios::Context;
use crate::scenarios::chart::install_everywhere;
use crate::scenarios::deployment::{READY_PATIENCE, VOLUME, apply_volume, is_ready, join, remove, resource};

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    let removed = context.step("everything is removed again", || remove(context));
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    install_everywhere(context)?;
    apply_volume(context)?;
    context.step("east: it is ready", || is_ready(&context.east.kubectl, "Primary"))?;
    context.step("west: it says that the join bundle is missing", || {
        context
            .west
            .kubectl
            .wait_until(&resource(), READY_PATIENCE, |volume| {
                let reason = condition_of(volume, "Ready").map(|condition| &condition["reason"]);
                Look::at(
                    reason.is_some_and(|reason| reason == "JoinBundleMissing"),
                    summary(volume),
                )
            })
    })?;
    context.step("west: it is ready when it has the join bundle", || join(context))?;
    for cluster in context.clusters() {
        context.step(&format!("{}: both buckets are in step", cluster.region), || {
            for condition in ["Replicating", "InSync"] {
                cluster
                    .kubectl
                    .wait_for_condition(&resource(), condition, "True", READY_PATIENCE)?;
            }
            Ok(())
        })?;
    }
    context.step("the metadata service is back after its pod was killed", || {
        kill_metadata(&context.east.kubectl)?;
        is_ready(&context.east.kubectl, "Primary")?;
        is_ready(&context.west.kubectl, "Target")
    })
}

fn kill_metadata(kubectl: &Kubectl) -> Result<(), Failure> {
    let pod = format!("pod/{VOLUME}-metadata-0");
    let before = kubectl.get(&pod)?["metadata"]["uid"].clone();
    kubectl
        .command(["delete", &pod, "--grace-period=0", "--force", "--wait=false"])
        .done()?;
    kubectl.wait_until(&pod, READY_PATIENCE, |now| {
        let is_new = now["metadata"]["uid"] != before;
        let is_ready = condition_of(now, "Ready").is_some_and(|ready| ready["status"] == "True");
        Look::at(is_new && is_ready, summary(now))
    })
}
