//! A worker in the simulation: the worker of production on simulated streams and buckets.

use std::sync::Arc;
use std::time::Duration;

use twinshore_protocol::Side;
use twinshore_protocol::message::SessionDescription;
use twinshore_replication::{ReplicatorOptions, SynchroniserOptions, Worker, WorkerOptions};

use crate::buckets::Buckets;
use crate::network::Network;
use crate::world::{latency_ms, pair};

/// Starts a worker whose near side is `near`.
pub async fn start(network: &Network, buckets: &Buckets, node: &str, near: Side) -> Result<Worker, String> {
    let started = tokio::time::Instant::now();
    let clock = move || i64::try_from(started.elapsed().as_secs()).unwrap_or(i64::MAX);
    let options = WorkerOptions {
        volume: None,
        description: SessionDescription { host: node.to_owned(), process: 1, purpose: "worker".to_owned() },
        request_deadline: Duration::from_secs(60),
        replicator: ReplicatorOptions { parallel: 4, ..ReplicatorOptions::default() },
        synchroniser: SynchroniserOptions::new(Arc::new(clock)),
        pack: true,
    };
    let transport = network.transport(node, latency_ms(near));
    Worker::start(transport, pair(buckets, near), options).await.map_err(|error| format!("{node} cannot start: {error}"))
}
