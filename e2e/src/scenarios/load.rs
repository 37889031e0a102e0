//! A program in a pod that writes and reads all the time, and keeps a list of everything that did not succeed.
//!
//! Each round appends a line to one file, writes another one of 64 KiB under a new name, reads it back and compares. The list is in the pod's own file system, so
//! nothing that is wrong with the volume hides it.
//!
//! States: *running*, from [`start`] on; *ended*, by [`stop`], which fails if a round failed or a line is missing.

use std::time::Duration;

use crate::failure::{Failure, chain};
use crate::kubectl::Kubectl;
use crate::patience::{Look, wait_for};

/// Between two rounds, in seconds.
const PAUSE: &str = "0.1";

/// For some rounds to be made: those under way may wait for a part that is being replaced, a minute at most.
const ROUNDS_PATIENCE: Duration = Duration::from_secs(90);

/// Starts it in a pod, in a directory of the volume.
pub fn start(kubectl: &Kubectl, pod: &str, directory: &str) -> Result<(), Failure> {
    let script = format!(
        "mkdir -p {directory} && cd {directory} && dd if=/dev/urandom of=/tmp/block bs=64k count=1 2>/dev/null && rm -f /tmp/stop /tmp/ended /tmp/failed \
         && (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i > /tmp/round; echo $i >> lines || echo \"line $i\" >> /tmp/failed; \
         cp /tmp/block block-$((i%50)).new && mv block-$((i%50)).new block-$((i%50)) && cmp /tmp/block block-$((i%50)) \
         || echo \"block $i\" >> /tmp/failed; sleep {PAUSE}; done; echo $i > /tmp/ended) > /dev/null 2> /tmp/said &"
    );
    kubectl.shell(pod, &script)?;
    Ok(())
}

/// Waits until it has made so many more rounds: it does not only wait for something.
pub fn goes_on(kubectl: &Kubectl, pod: &str, rounds: u32) -> Result<(), Failure> {
    let before = round(kubectl, pod)?;
    wait_for(
        &format!("{rounds} rounds of {pod} in {}", kubectl.context()),
        ROUNDS_PATIENCE,
        || match round(kubectl, pod) {
            Ok(now) => Look::at(
                now >= before + rounds,
                format!("{} rounds", now.saturating_sub(before)),
            ),
            Err(error) => Look::NotYet(chain(&error)),
        },
    )?;
    failures(kubectl, pod)
}

fn round(kubectl: &Kubectl, pod: &str) -> Result<u32, Failure> {
    let said = kubectl.shell(pod, "cat /tmp/round")?;
    said.trim()
        .parse()
        .map_err(|_| Failure::wrong(format!("{pod} says no round, but {said:?}")))
}

/// Fails if a round failed.
pub fn failures(kubectl: &Kubectl, pod: &str) -> Result<(), Failure> {
    let said = kubectl.shell(
        pod,
        "[ ! -e /tmp/failed ] || cat /tmp/failed /tmp/said | head -c 1000",
    )?;
    if said.is_empty() {
        return Ok(());
    }
    Err(Failure::wrong(format!(
        "{pod} in {} had errors: {}",
        kubectl.context(),
        said.replace('\n', "; ")
    )))
}

/// Ends it; how many rounds there were. Every line must be there, once.
pub fn stop(kubectl: &Kubectl, pod: &str, directory: &str) -> Result<u32, Failure> {
    kubectl.shell(pod, "touch /tmp/stop")?;
    let said = wait_for(&format!("{pod} to end"), ROUNDS_PATIENCE, || {
        match kubectl.shell(pod, "cat /tmp/ended 2>/dev/null || true") {
            Ok(said) if !said.is_empty() => Look::Done(said),
            Ok(_) => Look::NotYet("it goes on".to_owned()),
            Err(error) => Look::NotYet(chain(&error)),
        }
    })?;
    failures(kubectl, pod)?;
    let missing = kubectl.shell(
        pod,
        &format!("seq {said} > /tmp/expected; cmp /tmp/expected {directory}/lines 2>&1 || true"),
    )?;
    if !missing.is_empty() {
        return Err(Failure::wrong(format!(
            "{pod}: lines are not what was written: {missing}"
        )));
    }
    said.trim()
        .parse()
        .map_err(|_| Failure::wrong(format!("{pod} says no number of rounds, but {said:?}")))
}
