//! Many pods on one volume, and unusual ways to it: fifty pods on one node and on two, `subPath`, generic ephemeral volumes, a node that loses power.
//!
//! How long pods take is printed, not asserted.

mod measure;
mod ways;

use std::time::Duration;

use serde_json::{Value, json};

use crate::address::{Node, Region};
use crate::failure::{Failure, chain};
use crate::kubectl::Kubectl;
use crate::patience::{Look, wait_for};
use crate::scenarios::claims::{self, claim, class, is_bound, user_pod};
use crate::scenarios::deployment;
use crate::scenarios::{Context, POD_PATIENCE};

use measure::{Times, mounts_on, uptime};

/// Pods at once.
const PODS: usize = 50;

/// Pods one after the other.
const SINGLE_PODS: usize = 10;

/// For all of them to run, and to be gone: a kubelet starts some in a second.
const PATIENCE: Duration = Duration::from_mins(6);

/// Their claim.
const CLAIM: &str = "crowd";

/// What tells the pods of one group.
const GROUP_LABEL: &str = "crowd";

pub fn run(context: &Context) -> Result<(), Failure> {
    let result = steps(context);
    if result.is_err() {
        claims::tell_logs(context);
    }
    let removed = context.step("everything is removed again", || claims::remove(context));
    if let (Err(_), Err(error)) = (&result, &removed) {
        println!("  it could not be removed: {}", chain(error));
    }
    result.and(removed)
}

fn steps(context: &Context) -> Result<(), Failure> {
    deployment::bring_up(context)?;
    let east = &context.east.kubectl;
    context.step("a claim for a crowd", || {
        for cluster in context.clusters() {
            cluster.kubectl.apply(&class(context).to_string())?;
        }
        east.apply(&claim(CLAIM, "ReadWriteMany", "1Gi").to_string())?;
        is_bound(east, CLAIM)
    })?;
    let nodes: Vec<Node> = Region::East.nodes().collect();
    // The first mount of a node, and images that were never unpacked, are not what is measured.
    context.step("a pod on each node", || {
        for node in &nodes {
            crowd(east, &format!("warm-{node}"), 1, Some(*node))?;
        }
        Ok(())
    })?;
    let mut rows = Vec::new();
    context.step(
        &format!("{SINGLE_PODS} pods one after the other, on a node with the mount"),
        || {
            let mut times = Times::default();
            for number in 0..SINGLE_PODS {
                times.add(crowd(east, &format!("single-{number}"), 1, Some(nodes[0]))?);
            }
            rows.push(times.row("one at a time", 1));
            Ok(())
        },
    )?;
    context.step(&format!("{PODS} pods at once on one node"), || {
        let times = crowd(east, "one", PODS, Some(nodes[0]))?;
        rows.push(times.row("at once, one node", PODS));
        Ok(())
    })?;
    let memory = mounts_on(context, nodes[0])?;
    context.step("they are gone", || gone(east, "one"))?;
    context.step(&format!("{PODS} pods at once on two nodes"), || {
        let times = crowd(east, "both", PODS, None)?;
        rows.push(times.row("at once, two nodes", PODS));
        Ok(())
    })?;
    context.step("each has read what each has written", || {
        let said = east.shell(&name("both", 0), "cat /data/both/* | sort -n | uniq | wc -l")?;
        claims::same(&PODS.to_string(), &said)
    })?;
    context.step("they are gone too", || gone(east, "both"))?;
    measure::print(&rows, &memory);
    ways::steps(context)
}

fn name(group: &str, number: usize) -> String {
    format!("{group}-{number}")
}

/// A pod that writes to its volume as soon as it can, says when that was, and is ready then.
fn member(group: &str, number: usize, node: Option<Node>) -> Value {
    let name = name(group, number);
    let mut pod = user_pod(&name, CLAIM, node);
    let container = &mut pod["spec"]["containers"][0];
    container["command"] = json!([
        "sh",
        "-c",
        format!(
            "mkdir -p /data/{group} && echo {number} > /data/{group}/{number} && cut -d ' ' -f 1 /proc/uptime > /tmp/usable && exec sleep 1000000"
        ),
    ]);
    container["resources"]["limits"]["memory"] = json!("32Mi");
    pod["metadata"]["labels"][GROUP_LABEL] = json!(group);
    pod
}

/// Starts pods at once; how long after `kubectl apply` began the volume of each could be used.
fn crowd(kubectl: &Kubectl, group: &str, count: usize, node: Option<Node>) -> Result<Times, Failure> {
    let pods: Vec<Value> = (0..count).map(|number| member(group, number, node)).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods });
    let begin = uptime()?;
    kubectl.apply(&list.to_string())?;
    let selector = format!(
        "get pods --selector={GROUP_LABEL}={group} --field-selector=status.phase=Running --output=name"
    );
    wait_for(
        &format!("{count} pods of {group} to run"),
        PATIENCE,
        || match kubectl.say(&selector) {
            Ok(said) => Look::at(
                said.lines().count() == count,
                format!("{} run", said.lines().count()),
            ),
            Err(error) => Look::NotYet(chain(&error)),
        },
    )?;
    let mut times = Times::default();
    for number in 0..count {
        let name = name(group, number);
        let said = wait_for(
            &format!("{name} to use its volume"),
            POD_PATIENCE,
            || match kubectl.shell(&name, "cat /tmp/usable") {
                Ok(said) => Look::Done(said),
                Err(error) => Look::NotYet(chain(&error)),
            },
        )?;
        times.push(begin, &said)?;
    }
    Ok(times)
}

fn gone(kubectl: &Kubectl, group: &str) -> Result<(), Failure> {
    let selector = format!("--selector={GROUP_LABEL}={group}");
    Ok(kubectl
        .command(["delete", "pods", &selector, "--timeout=300s"])
        .patience(PATIENCE)
        .done()?)
}
