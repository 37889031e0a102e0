//! Quotas that are used up: of a claim, and of the whole volume.

use serde_json::json;

use crate::failure::{Failure, chain};
use crate::kubectl::{Kubectl, condition_of, summary};
use crate::patience::{Look, wait_for};
use crate::scenarios::claims::{BIND_PATIENCE, claim, is_bound, same, start, user_pod};
use crate::scenarios::deployment::{READY_PATIENCE, VOLUME, resource};
use crate::scenarios::{Context, load};

use super::{WRITER, told};

/// The pod that fills things up.
const FILLER: &str = "filler";

/// As the quota of the volume: the pods that write all the time hold some 7 MiB.
const QUOTA_MIB: u64 = 48;

pub fn steps(context: &Context) -> Result<(), Failure> {
    let west = &context.west.kubectl;
    context.step(
        "a full claim: programs get an error, others go on, and nothing is lost",
        || {
            west.apply(&claim("small", "ReadWriteMany", "8Mi").to_string())?;
            is_bound(west, "small")?;
            start(west, &user_pod(FILLER, "small", None))?;
            is_full(west)?;
            load::goes_on(west, WRITER, 5)?;
            has_room(west)
        },
    )?;
    context.step("a full volume says so, and programs get an error", || {
        set_quota(context, Some(QUOTA_MIB))?;
        west.delete(&format!("pod/{FILLER}"))?;
        west.apply(&claim("large", "ReadWriteMany", "1Gi").to_string())?;
        is_bound(west, "large")?;
        start(west, &user_pod(FILLER, "large", None))?;
        for cluster in context.clusters() {
            // What writes all the time would be told too.
            load::stop(
                &cluster.kubectl,
                WRITER,
                &format!("{}-{}", super::DIRECTORY, cluster.region),
            )?;
        }
        is_full(west)?;
        for cluster in context.clusters() {
            told(
                &cluster.kubectl,
                VOLUME,
                ["Degraded", "True", "AlmostFull"],
                "raise spec.quota.size, or remove files",
            )?;
        }
        Ok(())
    })?;
    context.step("with a larger quota it goes on, and nothing was lost", || {
        set_quota(context, None)?;
        has_room(west)?;
        for cluster in context.clusters() {
            cluster
                .kubectl
                .wait_until(&resource(), READY_PATIENCE, |volume| {
                    let reason = condition_of(volume, "Degraded").map(|condition| &condition["reason"]);
                    Look::at(
                        reason.is_some_and(|reason| reason == "AsExpected"),
                        summary(volume),
                    )
                })?;
            load::start(
                &cluster.kubectl,
                WRITER,
                &format!("{}-{}-again", super::DIRECTORY, cluster.region),
            )?;
        }
        west.delete(&format!("pod/{FILLER}"))
    })
}

/// Fills the directory of the pod until it gets an error; what was there before is still there.
fn is_full(kubectl: &Kubectl) -> Result<(), Failure> {
    // What remains when the large one is refused is filled with small ones.
    let said = kubectl.shell(
        FILLER,
        "echo kept > /data/before && sync && dd if=/dev/urandom of=/data/large bs=1M count=64 conv=fsync 2>&1; i=0; \
         while [ $i -lt 200 ] && dd if=/dev/zero of=/data/fill-$i bs=256k count=1 conv=fsync 2>/dev/null; do i=$((i+1)); done; \
         echo \"$i small ones\"; cat /data/before",
    )?;
    let is_told = said.contains("No space left on device") || said.contains("uota exceeded");
    if is_told && said.ends_with("kept") {
        return Ok(());
    }
    Err(Failure::wrong(format!("the pod was told: {said}")))
}

/// There is room for what was too much before, at once after something was removed or the limit was raised.
fn has_room(kubectl: &Kubectl) -> Result<(), Failure> {
    wait_for("room for more", BIND_PATIENCE, || {
        let script =
            "rm -f /data/large /data/fill-* && dd if=/dev/zero of=/data/large bs=1M count=4 conv=fsync 2>&1";
        match kubectl.shell(FILLER, script) {
            Ok(_) => Look::Done(()),
            Err(error) => Look::NotYet(chain(&error)),
        }
    })?;
    same("kept", &kubectl.shell(FILLER, "cat /data/before")?)
}

/// The same manifest in both clusters; the service has it some seconds later.
fn set_quota(context: &Context, mebibytes: Option<u64>) -> Result<(), Failure> {
    let quota = mebibytes.map(|mebibytes| json!({ "size": format!("{mebibytes}Mi") }));
    let patch = json!({ "spec": { "quota": quota } }).to_string();
    for cluster in context.clusters() {
        let arguments = ["patch", &resource(), "--type=merge", "--patch", &patch];
        cluster.kubectl.command(arguments).done()?;
    }
    context
        .east
        .kubectl
        .wait_until(&resource(), READY_PATIENCE, |volume| {
            let limit = volume["status"]["usage"]["limitBytes"].as_u64();
            Look::at(
                limit == mebibytes.map(|mebibytes| mebibytes << 20),
                format!("the limit is {limit:?}"),
            )
        })
}
