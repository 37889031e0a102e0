//! Times and memory, as they are printed.

use std::fs;
use std::path::Path;

use crate::address::Node;
use crate::failure::Failure;
use crate::node::NodeHandle;
use crate::scenarios::Context;

/// Pods are on this machine, and have its clock.
const UPTIME: &str = "/proc/uptime";

/// How long pods took, in seconds.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// A pod that says when it could use its volume.
    pub fn push(&mut self, begin: f64, said: &str) -> Result<(), Failure> {
        let usable: f64 = said
            .trim()
            .parse()
            .map_err(|_| Failure::wrong(format!("a pod says no time, but {said:?}")))?;
        self.0.push(usable - begin);
        Ok(())
    }

    /// Those of others.
    pub fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// What is printed of them. With one pod at a time a rate says nothing.
    pub fn row(mut self, what: &str, at_once: usize) -> String {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.last().copied().unwrap_or_default();
        let count = self.0.len();
        let rate = if at_once > 1 && last > 0.0 {
            #[allow(clippy::cast_precision_loss)] // Some dozens.
            let rate = count as f64 / last;
            format!("{rate:.1} per s")
        } else {
            "-".to_owned()
        };
        format!(
            "  {what:<20} {count:>4}  {:>6.1} s  {:>6.1} s  {rate:>10}",
            self.percentile(50),
            self.percentile(99)
        )
    }

    /// The smallest that so many percent do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Seconds since this machine was started.
pub fn uptime() -> Result<f64, Failure> {
    let path = Path::new(UPTIME);
    let text = fs::read_to_string(path).map_err(Failure::file("read", path))?;
    text.split(' ')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .ok_or_else(|| Failure::wrong(format!("{UPTIME} says {text:?}")))
}

/// The processes of mounts on a node: for each, how much memory is its own or its share, and how many binds of its mount there are, as lines.
pub fn mounts_on(context: &Context, node: Node) -> Result<String, Failure> {
    const SCRIPT: &str = "for process in /proc/[0-9]*; do if tr '\\0' ' ' 2>/dev/null < $process/cmdline | grep -q ' --device-from-[s]tdin '; then \
                          awk '$1 == \"Pss:\" { print int($2 / 1024) \" MiB\" }' $process/smaps_rollup; fi; done; \
                          grep -c ' fuse.twinshore ' /proc/1/mountinfo";
    Ok(NodeHandle::of(&context.place, node)
        .run(["sh", "-c", SCRIPT])?
        .output()?)
}

/// Prints the table.
pub fn print(rows: &[String], memory: &str) {
    println!(
        "  from `kubectl apply` of a pod until it has written to its volume (images and the node's mount are there):"
    );
    println!(
        "  {:<20} {:>4}  {:>8}  {:>8}  {:>10}",
        "pods", "", "p50", "p99", "rate"
    );
    for row in rows {
        println!("{row}");
    }
    let lines: Vec<&str> = memory.lines().collect();
    if let Some((mounts, processes)) = lines.split_last() {
        println!(
            "  with these pods a node has {} process(es) of mounts: {}; entries in its table of mounts: {mounts}",
            processes.len(),
            processes.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ninety_ninth_of_fifty_is_the_last() {
        let times = Times((1..=50).map(f64::from).collect());
        assert!((times.percentile(50) - 25.0).abs() < f64::EPSILON);
        assert!((times.percentile(99) - 50.0).abs() < f64::EPSILON);
        assert!(Times::default().percentile(50).abs() < f64::EPSILON);
    }
}
