//! `twinshore worker`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use twinshore_protocol::Side;
use twinshore_protocol::message::Role;
use twinshore_replication::{ReplicatorOptions, SynchroniserOptions, Worker, WorkerOptions};

use super::client::{Client, description};
use super::status;
use crate::arguments::WorkerArguments;
use crate::buckets;
use crate::error::CommandError;

/// How long a worker waits for one answer: longer than a restart of the service.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);

/// Copies until it is asked to stop.
pub async fn run(arguments: WorkerArguments) -> Result<(), CommandError> {
    let WorkerArguments {
        service,
        patience,
        flip,
        slots,
        buffer_size,
        buckets,
    } = arguments;
    let client = Client::connect_patiently(Role::Worker, &service, patience, "worker").await?;
    let format = status::fetch(&client).await?.format;
    client.close().await;
    let near = if flip { Side::Target } else { Side::Primary };
    let pair = buckets::open_pair(&format, near, &buckets, buffer_size).await?;
    let options = WorkerOptions {
        volume: Some(format.volume),
        description: description("worker"),
        request_deadline: REQUEST_DEADLINE,
        replicator: ReplicatorOptions {
            parallel: usize::try_from(slots).unwrap_or(1),
            memory_bytes: buffer_size,
            ..ReplicatorOptions::default()
        },
        synchroniser: SynchroniserOptions::new(Arc::new(wall_clock_seconds)),
        housekeeping: true,
    };
    let transport = super::transport(&service)?;
    let worker = Worker::start(transport, pair.clone(), options)
        .await
        .map_err(|source| CommandError::Connect {
            address: service.address.clone(),
            source,
        })?;
    let (changes, formats) = watch::channel(format);
    let forward = forward_formats(worker.formats(), changes);
    println!("worker: ready");
    let result = tokio::select! {
        biased;
        result = super::asked_to_stop() => result,
        () = buckets::follow(pair, buckets, formats) => Ok(()),
        () = forward => Ok(()),
    };
    worker.stop().await;
    result
}

/// Seconds since 1970, as buckets date their objects.
fn wall_clock_seconds() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Passes on what the worker hears of the volume's settings.
async fn forward_formats(
    mut from: watch::Receiver<Option<Arc<twinshore_protocol::format::VolumeFormat>>>,
    to: watch::Sender<twinshore_protocol::format::VolumeFormat>,
) {
    while from.changed().await.is_ok() {
        if let Some(format) = from.borrow_and_update().as_deref() {
            to.send_replace(format.clone());
        }
    }
    std::future::pending::<()>().await;
}
