//! What a person can get wrong, and what is in the way of what he wants: each is told by a condition and an event with the remedy, helps itself once that was
//! applied, and loses nothing.

mod deleted;
mod full;
mod unusable;

use crate::failure::{Failure, at_once, chain};
use crate::kubectl::{Kubectl, condition_of, summary};
use crate::patience::Look;
use crate::scenarios::claims::{self, class, is_bound, start, user_pod};
use crate::scenarios::deployment::{self, READY_PATIENCE, resource_named};
use crate::scenarios::{Context, load};

/// Where the pod of each cluster writes.
const DIRECTORY: &str = "/data/load";

/// The pod of each cluster that writes all the time.
const WRITER: &str = "writer";

/// The claim that it writes to.
const CLAIM: &str = "shared";

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    if result.is_err() {
        claims::tell_logs(context);
        tell_volumes(context);
    }
    let removed = context.step("everything is removed again", || remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", chain(error));
    }
    result.and(removed)
}

fn remove(context: &Context) -> Result<(), Failure> {
    context.east.s3.remove_bucket(unusable::MISSING_BUCKET)?;
    claims::remove(context)
}

fn steps(context: &Context) -> Result<(), Failure> {
    deployment::bring_up(context)?;
    context.step("pods of both clusters write all the time", || {
        at_once("start pods", &context.clusters(), |cluster| {
            let kubectl = &cluster.kubectl;
            kubectl.apply(&class(context).to_string())?;
            kubectl.apply(&claims::claim(CLAIM, "ReadWriteMany", "1Gi").to_string())?;
            is_bound(kubectl, CLAIM)?;
            start(
                kubectl,
                &user_pod(WRITER, CLAIM, Some(cluster.region.first_node())),
            )?;
            load::start(kubectl, WRITER, &format!("{DIRECTORY}-{}", cluster.region))
        })
    })?;
    unusable::steps(context)?;
    full::steps(context)?;
    deleted::steps(context)
}

/// Waits until a condition of a volume has a status and a reason, and its message says a text; then until an event says it too.
fn told(
    kubectl: &Kubectl,
    volume: &str,
    [condition, status, reason]: [&str; 3],
    text: &str,
) -> Result<(), Failure> {
    kubectl.wait_until(&resource_named(volume), READY_PATIENCE, |found| {
        let is_so = condition_of(found, condition).is_some_and(|found| {
            found["status"] == status
                && found["reason"] == reason
                && found["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        });
        Look::at(is_so, summary(found))
    })?;
    let message = kubectl.wait_for_event(volume, text, claims::BIND_PATIENCE)?;
    println!("    {volume}: {message}");
    Ok(())
}

/// What the volumes say of themselves, for whoever looks for the reason of a failure.
fn tell_volumes(context: &Context) {
    for cluster in context.clusters() {
        let said = cluster
            .kubectl
            .say("get replicatedvolumes,persistentvolumeclaims,pods --output=wide")
            .unwrap_or_else(|error| chain(&error));
        println!("in {}:\n{said}", cluster.region);
    }
}
