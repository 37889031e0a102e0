//! A worker in the simulation: the worker of production on simulated streams and buckets.

use std::sync::Arc;
use std::time::Duration;

use twinshore_protocol::Side;
use twinshore_protocol::message::SessionDescription;
use twinshore_replication::{ReplicatorOptions, SynchroniserOptions, Worker, WorkerOptions};

use crate::buckets::Buckets;
use crate::network::Network;
use crate::world::{latency_ms, pair};

/// How long the service may be away before it counts as a bug that nothing can be started.
const START_LIMIT: Duration = Duration::from_mins(2);

/// Starts a worker whose near side is `near`.
pub async fn start(network: &Network, buckets: &Buckets, node: &str, near: Side) -> Result<Worker, String> {
    let started = tokio::time::Instant::now();
    let clock = move || i64::try_from(started.elapsed().as_secs()).unwrap_or(i64::MAX);
    let options = WorkerOptions {
        volume: None,
        description: SessionDescription {
            host: node.to_owned(),
            process: 1,
            purpose: "worker".to_owned(),
            node: None,
        },
        request_deadline: Duration::from_mins(1),
        replicator: ReplicatorOptions {
            parallel: 4,
            ..ReplicatorOptions::default()
        },
        synchroniser: SynchroniserOptions::new(Arc::new(clock)),
        housekeeping: true,
    };
    let transport = network.transport(node, latency_ms(near));
    // A worker that finds the service down is started again, as Kubernetes would.
    loop {
        match Worker::start(Arc::clone(&transport), pair(buckets, near), options.clone()).await {
            Ok(worker) => return Ok(worker),
            Err(error) if started.elapsed() > START_LIMIT => {
                return Err(format!("{node} cannot start: {error}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
