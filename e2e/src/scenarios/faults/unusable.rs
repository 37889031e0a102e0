//! Volumes that cannot be used as they are: Secret, keys, bucket, region.

use serde_json::{Value, json};

use crate::failure::{Failure, at_once};
use crate::s3::Keys;
use crate::scenarios::deployment::{
    READY_PATIENCE, disk_name, make_disks, resource_named, secret, secret_name, single,
};
use crate::scenarios::{Cluster, Context, load};

use super::{WRITER, told};

/// A bucket that is not there at first.
pub const MISSING_BUCKET: &str = "twinshore-faults";

/// The volumes, all of one region.
const NO_SECRET: &str = "no-secret";
const WRONG_KEYS: &str = "wrong-keys";
const NO_BUCKET: &str = "no-bucket";
const ELSEWHERE: &str = "elsewhere";
const RIVAL: &str = "rival";

const NOT_READY_PODS: [&str; 3] = ["Ready", "False", "PodsFailing"];

pub fn steps(context: &Context) -> Result<(), Failure> {
    let east = &context.east;
    let prefix = disk_name();
    let volumes = [NO_SECRET, WRONG_KEYS, NO_BUCKET];
    let disks = volumes.map(|name| format!("{prefix}-{name}"));
    context.step(
        "volumes without their Secret, with wrong keys, without their bucket, of another region",
        || {
            make_disks(east, &disks.each_ref().map(String::as_str))?;
            let wrong = Keys {
                secret_key: "not-the-secret".to_owned(),
                ..east.s3.keys()?
            };
            east.kubectl
                .apply(&secret("faults-wrong-keys", &wrong).to_string())?;
            let [no_secret, wrong_keys, no_bucket] = &disks;
            for volume in [
                with_secret(single(east, NO_SECRET, no_secret), "faults-no-secret"),
                with_secret(single(east, WRONG_KEYS, wrong_keys), "faults-wrong-keys"),
                in_bucket(single(east, NO_BUCKET, no_bucket), MISSING_BUCKET),
                of_region(single(east, ELSEWHERE, &prefix), "north"),
            ] {
                east.kubectl.apply(&volume.to_string())?;
            }
            Ok(())
        },
    )?;
    let kubectl = &east.kubectl;
    context.step("each says what is wrong and what to do", || {
        told(
            kubectl,
            NO_SECRET,
            ["Ready", "False", "SecretNotFound"],
            "does not exist in this cluster: create it in the namespace of the volume",
        )?;
        told(kubectl, WRONG_KEYS, NOT_READY_PODS, "refuses the credentials")?;
        told(kubectl, NO_BUCKET, NOT_READY_PODS, "does not exist")?;
        told(
            kubectl,
            ELSEWHERE,
            ["Ready", "False", "RegionNotNamed"],
            "this cluster is region east, the volume is in north",
        )
    })?;
    context.step("each is ready when that was done", || {
        let keys = east.s3.keys()?;
        for name in ["faults-no-secret", "faults-wrong-keys"] {
            kubectl.apply(&secret(name, &keys).to_string())?;
        }
        east.s3.make_bucket(MISSING_BUCKET)?;
        at_once("wait for the volumes", &volumes, |name| {
            kubectl.wait_for_condition(&resource_named(name), "Ready", "True", READY_PATIENCE)
        })
    })?;
    context.step(
        "a second cluster that claims to be primary is kept from the bucket",
        || rival(context, &prefix),
    )?;
    context.step("and nothing of it reached the pods of the first volume", || {
        for cluster in context.clusters() {
            load::goes_on(&cluster.kubectl, WRITER, 10)?;
        }
        let all = volumes.iter().chain([&ELSEWHERE]);
        for name in all {
            kubectl.delete(&resource_named(name))?;
        }
        Ok(())
    })
}

/// West makes itself the primary of what is east's: its manifest names the bucket of the volume that is there.
fn rival(context: &Context, prefix: &str) -> Result<(), Failure> {
    let west = &context.west;
    let disk = format!("{prefix}-{RIVAL}");
    make_disks(west, &[&disk])?;
    let theirs = context
        .east
        .kubectl
        .get(&resource_named(super::deployment::VOLUME))?;
    let mut rival = single(west, RIVAL, &disk);
    rival["spec"]["primary"]["bucket"] = theirs["spec"]["primary"]["bucket"].clone();
    rival["spec"]["primary"]["credentialsSecretRef"]["name"] = json!(secret_name(context.east.region));
    west.kubectl.apply(&rival.to_string())?;
    told(
        &west.kubectl,
        RIVAL,
        NOT_READY_PODS,
        "use another bucket or prefix",
    )?;
    west.kubectl.delete(&resource_named(RIVAL))?;
    // The one that was there first goes on, in both clusters.
    for Cluster { kubectl, .. } in context.clusters() {
        kubectl.wait_for_condition(&super::deployment::resource(), "Ready", "True", READY_PATIENCE)?;
    }
    Ok(())
}

fn with_secret(mut volume: Value, name: &str) -> Value {
    volume["spec"]["primary"]["credentialsSecretRef"]["name"] = json!(name);
    volume
}

fn in_bucket(mut volume: Value, name: &str) -> Value {
    volume["spec"]["primary"]["bucket"]["name"] = json!(name);
    volume
}

fn of_region(mut volume: Value, name: &str) -> Value {
    volume["spec"]["primary"]["region"] = json!(name);
    volume
}
