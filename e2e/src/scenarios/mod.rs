//! What is shown on a lab that is up: suites by name, each a function that returns what went wrong.
//!
//! To add one: a module with a function `run(context: &Context) -> Result<(), Failure>`, and a line in [`ALL`].

mod basic;
mod chart;
mod claims;
mod context;
pub mod demo;
mod deployment;
mod external;
mod faults;
mod http;
mod load;
mod many;
mod operations;
mod pods;
mod presign;
mod sanity;
mod snapshots;
mod volume;
mod wan;

use std::time::{Duration, Instant};

use crate::failure::{Failure, chain};
use crate::lab::is_up;
use crate::place::Place;

pub use context::{Cluster, Context, busybox_pod};

/// A suite.
#[derive(Clone, Copy)]
pub struct Suite {
    /// Its name on the command line; also that of the namespace that it gets in each cluster, which begins with `suite-`.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Whether every change has to pass it. The others take longer than that is worth.
    pub gates: bool,
    /// Runs it.
    run: fn(&Context) -> Result<(), Failure>,
}

/// All, what the others build on first.
pub const ALL: [Suite; 10] = [
    Suite {
        name: "basic",
        about: "pods on every node, names, services, node ports, logs, exec, limits of memory",
        gates: true,
        run: basic::run,
    },
    Suite {
        name: "wan",
        about: "the line between the regions: its round trip, cut and healed, and both S3 servers from pods of both",
        gates: true,
        run: wan::run,
    },
    Suite {
        name: "volume",
        about: "the chart and one volume in both clusters, brought up by the operators, its parts speaking over mutual TLS",
        gates: true,
        run: volume::run,
    },
    Suite {
        name: "pods",
        about: "pods of both clusters on one claim: what one writes the other reads, quotas, access modes, plugins that are killed",
        gates: true,
        run: pods::run,
    },
    Suite {
        name: "snapshots",
        about: "clones, snapshots and what is restored from them, through the objects of Kubernetes",
        gates: true,
        run: snapshots::run,
    },
    Suite {
        name: "sanity",
        about: "the conformance tests of the Container Storage Interface against the driver in the target region",
        gates: true,
        run: sanity::run,
    },
    Suite {
        name: "faults",
        about: "what a person can get wrong or take away: each a condition and an event with the remedy, and nothing lost",
        gates: false,
        run: faults::run,
    },
    Suite {
        name: "operations",
        about: "a region added, parts killed, buckets stopped, keys rotated, the chart upgraded, while pods of both clusters write",
        gates: false,
        run: operations::run,
    },
    Suite {
        name: "many",
        about: "fifty pods on one node and on two, with times and memory; subPath, ephemeral volumes, a node that loses power",
        gates: false,
        run: many::run,
    },
    Suite {
        name: "external-storage",
        about: "Kubernetes' own suite for storage drivers, told everything that the driver can do",
        gates: false,
        run: external::run,
    },
];

/// Which suites are meant if none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// Those that every change has to pass.
    Gate,
    /// The others.
    Others,
}

/// Runs suites, those chosen if none is named, and prints `suites: N passed, N failed`. Whether all passed.
pub fn run(place: &Place, names: &[String], chosen: Chosen) -> Result<bool, Failure> {
    if !is_up(place)? {
        return Err(Failure::Missing {
            what: "the lab is not up".to_owned(),
            remedy: "bring it up with `cargo xtask lab up`".to_owned(),
        });
    }
    let suites: Vec<Suite> = if names.is_empty() {
        ALL.into_iter()
            .filter(|suite| suite.gates == (chosen == Chosen::Gate))
            .collect()
    } else {
        names.iter().map(|name| named(name)).collect::<Result<_, _>>()?
    };
    let (mut passed, mut failed) = (0, 0);
    for suite in suites {
        println!("suite {}: {}", suite.name, suite.about);
        let started = Instant::now();
        let result = run_one(place, suite);
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("suite {}: passed ({seconds:.1} s)", suite.name);
            }
            Err(error) => {
                failed += 1;
                println!(
                    "suite {}: FAILED ({}) ({seconds:.1} s)",
                    suite.name,
                    chain(&error)
                );
            }
        }
    }
    println!("suites: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn named(name: &str) -> Result<Suite, Failure> {
    ALL.into_iter()
        .find(|suite| suite.name == name)
        .ok_or_else(|| Failure::Missing {
            what: format!("there is no suite {name}"),
            remedy: "--list shows them".to_owned(),
        })
}

/// Whatever a suite does to the line and the servers, the next one finds them as they should be.
fn run_one(place: &Place, suite: Suite) -> Result<(), Failure> {
    let context = Context::set_up(place, &format!("suite-{}", suite.name))?;
    let result = (suite.run)(&context);
    if result.is_err() {
        context.tell_events();
    }
    let cleaned = context.clean_up();
    result.and(cleaned)
}

/// For a pod whose image is there to be ready, on a machine that does other things too.
pub const POD_PATIENCE: Duration = Duration::from_mins(2);
