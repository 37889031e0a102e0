//! What goes wrong, and when: one fault after the other, some overlapping, all decided by the seed.

use std::time::Duration;

use tokio::time::Instant;
use twinshore_protocol::Side;

use crate::buckets::Buckets;
use crate::host::{Crash, Host};
use crate::network::Network;
use crate::random::Random;
use crate::trace::Trace;
use crate::verdict::Verdict;

/// What the faults strike.
pub struct Targets {
    /// The metadata service.
    pub host: Host,
    /// The lines to it.
    pub network: Network,
    /// The buckets.
    pub buckets: Buckets,
    /// Names of clients and workers.
    pub nodes: Vec<String>,
}

/// Strikes until the time is up, then heals everything.
pub async fn strike(targets: Targets, mut random: Random, trace: Trace, verdict: Verdict, until: Instant) {
    // A restart of the service gives every session another minute: without one, sessions end.
    let spares_the_service = random.one_in(3);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.between(200, 4_000))).await;
        if verdict.is_guilty() {
            // What led to it shall be the end of the trace.
            break;
        }
        match random.between(0, 100) {
            0..20 if spares_the_service => {}
            0..20 => {
                let how = *random.pick(&[Crash::BeforeAppend, Crash::AfterAppend, Crash::TornAppend]);
                let down = Duration::from_millis(random.between(10, 5_000));
                targets.host.crash(how, down).await;
            }
            20..40 => {
                let node = random.pick(&targets.nodes).clone();
                targets.network.cut(&node);
            }
            40..60 => {
                let node = random.pick(&targets.nodes).clone();
                // Short ones are delays; beyond 10 s leases end, beyond 60 s sessions.
                let (least, most) = *random.pick(&[
                    (100, 500),
                    (100, 3_000),
                    (500, 12_000),
                    (9_000, 40_000),
                    (60_000, 70_000),
                ]);
                let held = Duration::from_millis(random.between(least, most));
                targets.network.hold(&node, true);
                let network = targets.network.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(held).await;
                    network.hold(&node, false);
                });
            }
            60..80 => {
                let side = *random.pick(&Side::BOTH);
                // Beyond a minute, dead objects leave the other bucket meanwhile.
                let (least, most) =
                    *random.pick(&[(100, 3_000), (100, 15_000), (500, 15_000), (60_000, 90_000)]);
                let down = Duration::from_millis(random.between(least, most));
                trace.event("buckets", &format!("{side} down for {} ms", down.as_millis()));
                targets.buckets.set_down(side, true);
                let buckets = targets.buckets.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(down).await;
                    buckets.set_down(side, false);
                });
            }
            _ => {
                let side = *random.pick(&Side::BOTH);
                trace.event("buckets", &format!("{side} fails now and then"));
                targets.buckets.set_flaky(side, random.one_in(2));
            }
        }
    }
    trace.event("faults", "healed");
    targets.network.heal();
    targets.buckets.heal();
}
