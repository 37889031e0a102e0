#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::time::Instant;
use twinshore_protocol::extent::{Extent, ExtentSource};
use twinshore_protocol::message::ServerMessage;
use twinshore_protocol::replication::TaskKind;
use twinshore_protocol::{Side, Sides};

use super::*;
use crate::double::{Region, id};

fn options() -> WorkerOptions {
    let start = Instant::now();
    WorkerOptions {
        volume: None,
        description: SessionDescription::default(),
        request_deadline: Duration::from_secs(30),
        replicator: ReplicatorOptions::default(),
        synchroniser: SynchroniserOptions::new(Arc::new(move || {
            i64::try_from(start.elapsed().as_secs()).unwrap()
        })),
        housekeeping: true,
    }
}

async fn start(region: &Region) -> Worker {
    Worker::start(region.service.transport(), region.pair.clone(), options())
        .await
        .unwrap()
}

fn copy(region: &Region, number: u64) -> ServerMessage {
    let record = region.store(number, 30, Sides::only(Side::Primary));
    let kind = TaskKind::Copy {
        stored_bytes: record.stored_bytes,
        checksum: record.checksum,
    };
    ServerMessage::Tasks(vec![Task {
        object: record.object,
        side: Side::Target,
        kind,
    }])
}

#[tokio::test(start_paused = true)]
async fn a_worker_copies_packs_and_synchronises() {
    let region = Region::new();
    let worker = start(&region).await;
    assert_eq!(region.service.lock().task_slots, 1024);
    region.service.push(copy(&region, 1)).await;
    let content = bytes::Bytes::from_static(b"inline");
    let extent = Extent {
        file_offset: 0,
        length: 6,
        source: ExtentSource::Inline(content),
    };
    region
        .service
        .lock()
        .inline
        .push((twinshore_protocol::InodeNumber(9), extent));
    region
        .service
        .push(ServerMessage::Synchronise { after: None })
        .await;
    region
        .service
        .until("the copy", |state| !state.report_batches.is_empty())
        .await;
    region
        .service
        .until("packing", |state| state.inline.is_empty())
        .await;
    region
        .service
        .until("the synchronisation", |state| {
            state.synchronisation.iter().any(|report| report.finished)
        })
        .await;
    assert!(region.has(Side::Target, 1));
    assert_eq!(worker.counters().copied_objects, [0, 1]);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_session_expired_opens_a_new_one_and_goes_on() {
    let region = Region::new();
    let worker = start(&region).await;
    region.service.expire().await;
    region
        .service
        .until("a new session", |state| state.sessions == 2)
        .await;
    region.service.push(copy(&region, 2)).await;
    region
        .service
        .until("the copy", |state| !state.report_batches.is_empty())
        .await;
    assert_eq!(region.service.lock().objects[&id(2)].present, Sides::BOTH);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_owner_hears_of_new_settings() {
    let region = Region::new();
    let worker = start(&region).await;
    let mut formats = worker.formats();
    let mut format = crate::double::format();
    format.settings.bandwidth_limit_bytes_per_second = [1, 2];
    region
        .service
        .push(ServerMessage::FormatChanged(Box::new(format.clone())))
        .await;
    formats.changed().await.unwrap();
    assert_eq!(formats.borrow().as_deref(), Some(&format));
    worker.stop().await;
}
