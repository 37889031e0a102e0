//! What is done to a volume that is in use: a region is added, parts are killed, buckets stop, keys are rotated, the chart is upgraded. Pods of both clusters write and
//! read all the time, and see no error.

mod keys;

use std::time::Duration;

use crate::address::Node;
use crate::failure::{Failure, at_once, chain};
use crate::image::product;
use crate::kubectl::{Kubectl, condition_of, summary};
use crate::node::NodeHandle;
use crate::patience::Look;
use crate::scenarios::chart::{RELEASE, SYSTEM_NAMESPACE, install_everywhere, upgrade_everywhere};
use crate::scenarios::claims::{self, ROLLOUT_PATIENCE, claim, class, is_bound, same, start, user_pod};
use crate::scenarios::deployment::{
    READY_PATIENCE, VOLUME, disk_name, is_ready, join, make_disks, resource, single, volume,
};
use crate::scenarios::{Cluster, Context, load};

/// The pod of each cluster, its claim, and where it writes.
const WRITER: &str = "writer";
const CLAIM: &str = "shared";

/// Another name of our image: to the clusters it is another image.
const NEXT_IMAGE: &str = "twinshore.io/twinshore:lab-next";

/// For both buckets to hold everything again: a worker that waits for a bucket looks at it now and then.
const IN_SYNC_PATIENCE: Duration = Duration::from_mins(3);

/// Of rounds of the load while something is broken: some seconds' worth.
const ROUNDS: u32 = 25;

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    if result.is_err() {
        claims::tell_logs(context);
        tell_volume(context);
    }
    let removed = context.step("everything is removed again", || claims::remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    let (east, west) = (&context.east.kubectl, &context.west.kubectl);
    install_everywhere(context)?;
    let disk = disk_name();
    let first = keys::users(context, "first")?;
    context.step("a volume of one region, and a pod that writes to it", || {
        make_disks(&context.east, &[&disk])?;
        keys::hand_out(context, &first)?;
        east.apply(&single(&context.east, VOLUME, &disk).to_string())?;
        is_ready(east, "Primary")?;
        begin(context, &context.east)?;
        east.shell(WRITER, "echo before > /data/before")?;
        Ok(())
    })?;
    context.step("a second region is added while it writes", || {
        add_target(context, &disk)
    })?;
    context.step(
        "a pod of the second region reads what was there before, and writes too",
        || {
            begin(context, &context.west)?;
            same("before", &west.shell(WRITER, "cat /data/before")?)
        },
    )?;
    for (what, kill) in PARTS {
        context.step(&format!("{what}: killed while pods write"), || {
            kill(context)?;
            both_go_on(context)
        })?;
    }
    for cluster in context.clusters() {
        context.step(
            &format!("the bucket of {} stops and comes back", cluster.region),
            || bucket_stops(context, cluster),
        )?;
    }
    context.step("new keys for both buckets; then the old ones are revoked", || {
        let second = keys::users(context, "second")?;
        keys::hand_out(context, &second)?;
        keys::are_gone(context, &first)?;
        for (cluster, user) in context.clusters().into_iter().zip(&first) {
            cluster.s3.remove_user(&context.place, user)?;
        }
        both_go_on(context)?;
        in_sync(context)
    })?;
    context.step("the chart is upgraded: another image, other values", || {
        upgrade(context)
    })?;
    context.step("no error, no line missing, both buckets in step", || {
        for cluster in context.clusters() {
            let rounds = load::stop(&cluster.kubectl, WRITER, &directory(cluster))?;
            println!("    {}: {rounds} rounds", cluster.region);
        }
        in_sync(context)
    })
}

/// Kills a part and waits until it is there again.
type Kill = fn(&Context) -> Result<(), Failure>;

/// Parts, and what kills them.
const PARTS: [(&str, Kill); 3] = [
    ("the metadata service", |context| {
        replace(
            &context.east.kubectl,
            "app.kubernetes.io/component=metadata",
            &format!("statefulset/{VOLUME}-metadata"),
        )
    }),
    ("the workers of both clusters", |context| {
        at_once("replace workers", &context.clusters(), |cluster| {
            replace(
                &cluster.kubectl,
                "app.kubernetes.io/component=worker",
                &format!("deployment/{VOLUME}-worker"),
            )
        })
    }),
    ("the operators and controllers of both clusters", |context| {
        at_once("replace operators", &context.clusters(), |cluster| {
            let system = cluster.kubectl.in_namespace(SYSTEM_NAMESPACE);
            for part in ["operator", "controller"] {
                let component = if part == "controller" {
                    "csi-controller"
                } else {
                    part
                };
                replace(
                    &system,
                    &format!("app.kubernetes.io/component={component}"),
                    &format!("deployment/{RELEASE}-{part}"),
                )?;
            }
            Ok(())
        })
    }),
];

fn directory(cluster: &Cluster) -> String {
    format!("/data/load-{}", cluster.region)
}

/// A claim, a pod on it, and what the pod does from now on.
fn begin(context: &Context, cluster: &Cluster) -> Result<(), Failure> {
    let kubectl = &cluster.kubectl;
    kubectl.apply(&class(context).to_string())?;
    kubectl.apply(&claim(CLAIM, "ReadWriteMany", "1Gi").to_string())?;
    is_bound(kubectl, CLAIM)?;
    start(
        kubectl,
        &user_pod(WRITER, CLAIM, Some(cluster.region.first_node())),
    )?;
    load::start(kubectl, WRITER, &directory(cluster))
}

fn both_go_on(context: &Context) -> Result<(), Failure> {
    at_once("go on", &context.clusters(), |cluster| {
        load::goes_on(&cluster.kubectl, WRITER, ROUNDS)
    })
}

fn in_sync(context: &Context) -> Result<(), Failure> {
    for cluster in context.clusters() {
        cluster
            .kubectl
            .wait_for_condition(&resource(), "InSync", "True", IN_SYNC_PATIENCE)?;
    }
    Ok(())
}

/// The resource gets a target, as a person adds it: the same manifest in both clusters, and the join bundle handed over.
fn add_target(context: &Context, disk: &str) -> Result<(), Failure> {
    let volume = volume(context, disk);
    for cluster in context.clusters() {
        cluster.kubectl.apply(&volume.to_string())?;
    }
    join(context)?;
    for cluster in context.clusters() {
        cluster
            .kubectl
            .wait_for_condition(&resource(), "Replicating", "True", READY_PATIENCE)?;
    }
    load::goes_on(&context.east.kubectl, WRITER, ROUNDS)?;
    in_sync_once(&context.east.kubectl)
}

/// Copies are owed all the time while a pod writes; now and then none is.
fn in_sync_once(kubectl: &Kubectl) -> Result<(), Failure> {
    kubectl.wait_until(&resource(), IN_SYNC_PATIENCE, |volume| {
        let lag = volume["status"]["lag"].as_str().unwrap_or_default();
        let is_near = ["0s", "1s", "2s", "3s", "4s", "5s"].contains(&lag);
        Look::at(is_near, format!("lag {lag:?}: {}", summary(volume)))
    })
}

/// Kills pods, without a moment to end, and waits until others are there.
fn replace(kubectl: &Kubectl, selector: &str, what: &str) -> Result<(), Failure> {
    let selector = format!("--selector={selector}");
    let said = kubectl
        .command(["delete", "pods", &selector, "--grace-period=0", "--force"])
        .output()?;
    if !said.contains("deleted") {
        return Err(Failure::wrong(format!("no pod has {selector}: {said}")));
    }
    kubectl.wait_for_rollout(what, ROLLOUT_PATIENCE)
}

/// While it is down both regions write and read, and the copies that it lacks are told; then it gets them.
fn bucket_stops(context: &Context, cluster: &Cluster) -> Result<(), Failure> {
    cluster.s3.stop()?;
    both_go_on(context)?;
    let east = &context.east.kubectl;
    east.wait_until(&resource(), READY_PATIENCE, |volume| {
        let is_told = condition_of(volume, "InSync").is_some_and(|condition| {
            condition["reason"] == "CopiesOwed"
                && condition["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(cluster.region.name()))
        });
        Look::at(is_told, summary(volume))
    })?;
    cluster.s3.start(&context.place)?;
    both_go_on(context)?;
    in_sync_once(east)
}

/// Everything but the mounter is replaced, by an image of another name and with other values.
fn upgrade(context: &Context) -> Result<(), Failure> {
    for node in Node::all() {
        NodeHandle::of(&context.place, node).name_image(product::NAME, NEXT_IMAGE)?;
    }
    upgrade_everywhere(
        context,
        NEXT_IMAGE,
        &["operator.logLevel=debug", "csi.logLevel=debug"],
    )?;
    at_once(
        "wait for the parts of the volume",
        &context.clusters(),
        |cluster| {
            let kubectl = &cluster.kubectl;
            let worker = format!("deployment/{VOLUME}-worker");
            kubectl.wait_until(&worker, ROLLOUT_PATIENCE, |found| {
                let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
                Look::at(image == NEXT_IMAGE, format!("its image is {image}"))
            })?;
            kubectl.wait_for_rollout(&worker, ROLLOUT_PATIENCE)?;
            if cluster.region == context.east.region {
                kubectl.wait_for_rollout(&format!("statefulset/{VOLUME}-metadata"), ROLLOUT_PATIENCE)?;
            }
            kubectl.wait_for_condition(&resource(), "Ready", "True", READY_PATIENCE)
        },
    )?;
    both_go_on(context)
}

fn tell_volume(context: &Context) {
    for cluster in context.clusters() {
        let said = cluster.kubectl.find(&resource()).map_or_else(
            |error| chain(&error),
            |found| found.map_or_else(String::new, |found| summary(&found)),
        );
        println!("{VOLUME} in {}: {said}", cluster.region);
    }
}
