//! A metadata service for tests: in memory, over channels, with only what a worker talks to it about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use twinshore_protocol::extent::{Extent, ExtentSource};
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::message::{
    ClientMessage, LEASE_SECONDS, Refusal, Role, ServerMessage, SessionDescription, Welcome,
};
use twinshore_protocol::operation::NewObject;
use twinshore_protocol::replication::{CopyReport, SynchronisationReport, TaskOutcome};
use twinshore_protocol::reply::{FileSystemUsage, ObjectRecord};
use twinshore_protocol::session::{
    Session, SessionOptions, Stream, Transport, TransportError, WithoutCaches,
};
use twinshore_protocol::status::{CompactionStatus, SynchronisationStatus, VolumeStatus};
use twinshore_protocol::{
    Epoch, Errno, InodeNumber, ObjectId, Operation, Position, Reply, SessionId, Side, Sides, VolumeId,
};
use twinshore_storage::bucket::Bucket;
use twinshore_storage::memory::MemoryBucket;
use twinshore_storage::object::object_key;
use twinshore_storage::pair::{BucketPair, PairOptions};

/// What the service knows and was told.
pub struct State {
    pub objects: BTreeMap<ObjectId, ObjectRecord>,
    /// Becomes known when an object is looked up by itself: a commit that overtakes a synchronisation.
    pub appears_when_looked_up: Option<ObjectRecord>,
    pub page_limit: usize,
    pub inline: Vec<(InodeNumber, Extent)>,
    pub repointed: Vec<(InodeNumber, Extent, ExtentSource)>,
    /// What compaction is to rewrite: one list for each request.
    pub compaction: std::collections::VecDeque<Vec<(InodeNumber, Extent)>>,
    pub report_batches: Vec<Vec<CopyReport>>,
    pub synchronisation: Vec<SynchronisationReport>,
    /// So many `ReportSynchronisation` are answered before the stream breaks once.
    pub break_after_reports: Option<usize>,
    pub task_slots: u32,
    pub sessions: u64,
    pub format: VolumeFormat,
    to_client: Option<mpsc::Sender<Vec<ServerMessage>>>,
    next_object: u64,
    expired: bool,
}

#[derive(Clone)]
pub struct Service {
    state: Arc<Mutex<State>>,
}

pub fn format() -> VolumeFormat {
    let region = |name: &str| RegionFormat {
        name: name.to_owned(),
        bucket: format!("file:///{name}"),
    };
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([1; 16]),
        name: "volume".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: region("east"),
            target: Some(region("west")),
            replication_enabled: true,
            compression: Compression::Lz4,
            durability: Durability::Close,
            inline_limit_bytes: 16384,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

impl Service {
    pub fn new() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            appears_when_looked_up: None,
            page_limit: 7,
            inline: Vec::new(),
            repointed: Vec::new(),
            compaction: std::collections::VecDeque::new(),
            report_batches: Vec::new(),
            synchronisation: Vec::new(),
            break_after_reports: None,
            task_slots: 0,
            sessions: 0,
            format: format(),
            to_client: None,
            next_object: 1 << 32,
            expired: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    /// A session that caches and handles nothing.
    pub async fn session(&self) -> Session {
        let options = SessionOptions {
            volume: None,
            role: Role::Worker,
            near: Side::Primary,
            task_slots: 0,
            description: SessionDescription::default(),
            request_deadline: Duration::from_secs(30),
        };
        Session::connect(self.transport(), options, Arc::new(WithoutCaches))
            .await
            .unwrap()
    }

    pub async fn push(&self, message: ServerMessage) {
        let sender = self.lock().to_client.clone().unwrap();
        sender.send(vec![message]).await.unwrap();
    }

    /// Ends the session.
    pub async fn expire(&self) {
        self.push(ServerMessage::Expired).await;
        self.lock().expired = true;
    }

    /// Waits for a condition on the state.
    pub async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        for _ in 0..100_000 {
            if condition(&self.lock()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not happen");
    }

    pub fn reports(&self) -> Vec<CopyReport> {
        self.lock().report_batches.iter().flatten().cloned().collect()
    }

    fn answer(&self, operation: Operation) -> Result<Reply, Errno> {
        let mut state = self.lock();
        Ok(match operation {
            Operation::GrantNumbers => {
                state.next_object += 1000;
                let objects = NumberRange {
                    start: state.next_object - 1000,
                    end: state.next_object,
                };
                Reply::Granted {
                    inodes: NumberRange::default(),
                    objects,
                }
            }
            Operation::GetStatus => Reply::Status(Box::new(state.status())),
            Operation::ListObjects { after, limit } => {
                if limit == 1
                    && let Some(record) = state.appears_when_looked_up
                {
                    state.objects.insert(record.object, record);
                }
                let limit = (limit as usize).min(state.page_limit);
                let records = state
                    .objects
                    .values()
                    .filter(|record| Some(record.object) > after);
                Reply::Objects(records.take(limit).copied().collect())
            }
            Operation::ReportCopies { reports } => {
                for CopyReport {
                    object,
                    side,
                    deletion,
                    outcome,
                } in &reports
                {
                    if let (Some(record), TaskOutcome::Done, false) =
                        (state.objects.get_mut(object), outcome, deletion)
                    {
                        record.present = record.present.with(*side);
                    }
                }
                state.report_batches.push(reports);
                Reply::Done
            }
            Operation::ReportSynchronisation { report } => {
                for (object, side) in &report.absent {
                    let record = state.objects.get_mut(object).unwrap();
                    record.present = record.present.without(*side);
                }
                for (object, side) in &report.present {
                    let record = state.objects.get_mut(object).unwrap();
                    record.present = record.present.with(*side);
                }
                state.synchronisation.push(report);
                Reply::Done
            }
            Operation::ListInline { limit_bytes } => {
                let mut total = 0;
                let extents = state.inline.iter().take_while(|(_, extent)| {
                    let first = total == 0;
                    total += extent.length;
                    first || total <= limit_bytes
                });
                Reply::InlineExtents(extents.cloned().collect())
            }
            Operation::ListCompaction { .. } => Reply::Compaction {
                extents: state.compaction.pop_front().unwrap_or_default(),
                more: !state.compaction.is_empty(),
            },
            Operation::Repoint { objects, exchanges } => {
                for new in objects {
                    state.add(new);
                }
                for exchange in exchanges {
                    if matches!(exchange.old.source, ExtentSource::Object { .. }) {
                        state.repointed.push((exchange.inode, exchange.old, exchange.new));
                        continue;
                    }
                    let old = (exchange.inode, exchange.old);
                    if let Some(at) = state.inline.iter().position(|standing| *standing == old) {
                        state.inline.remove(at);
                        state.repointed.push((old.0, old.1, exchange.new));
                    }
                }
                Reply::Done
            }
            _ => return Err(Errno::NotImplemented),
        })
    }

    async fn serve(
        self,
        mut from_client: mpsc::Receiver<Vec<ClientMessage>>,
        to_client: mpsc::Sender<Vec<ServerMessage>>,
    ) {
        self.lock().to_client = Some(to_client.clone());
        while let Some(messages) = from_client.recv().await {
            for message in messages {
                let answer = match message {
                    ClientMessage::Hello(hello) => {
                        let mut state = self.lock();
                        if hello.session.is_none() {
                            state.sessions += 1;
                            state.expired = false;
                        }
                        state.task_slots = hello.task_slots;
                        if state.expired {
                            ServerMessage::Refused(Refusal::SessionExpired)
                        } else {
                            state.welcome()
                        }
                    }
                    ClientMessage::Heartbeat { number } => {
                        ServerMessage::HeartbeatReply { number, time: None }
                    }
                    ClientMessage::Request {
                        number, operation, ..
                    } => {
                        if matches!(operation, Operation::ReportSynchronisation { .. }) {
                            let mut state = self.lock();
                            match &mut state.break_after_reports {
                                Some(0) => {
                                    state.break_after_reports = None;
                                    return;
                                }
                                Some(more) => *more -= 1,
                                None => {}
                            }
                        }
                        let result = self.answer(operation);
                        ServerMessage::Reply {
                            number,
                            position: Position(5),
                            result,
                            directories: Vec::new(),
                            superseded: Vec::new(),
                            delegated: twinshore_protocol::message::Delegated::default(),
                        }
                    }
                    ClientMessage::Goodbye => return,
                    ClientMessage::Reclaim(_)
                    | ClientMessage::Acknowledge { .. }
                    | ClientMessage::Returned { .. } => continue,
                };
                if to_client.send(vec![answer]).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl State {
    pub fn add(&mut self, new: NewObject) {
        let NewObject {
            object,
            stored_bytes,
            content_bytes,
            checksum,
            present,
        } = new;
        let record = ObjectRecord {
            object,
            stored_bytes,
            checksum,
            present,
            live_bytes: content_bytes,
            content_bytes,
        };
        self.objects.insert(object, record);
    }

    fn welcome(&self) -> ServerMessage {
        ServerMessage::Welcome(Box::new(Welcome {
            session: SessionId(self.sessions),
            epoch: Epoch(3),
            position: Position(5),
            format: self.format.clone(),
            inodes: NumberRange::default(),
            objects: NumberRange::default(),
            objects_epoch: Epoch(3),
            lease_seconds: LEASE_SECONDS,
        }))
    }

    fn status(&self) -> VolumeStatus {
        let usage = FileSystemUsage {
            used_bytes: 0,
            limit_bytes: None,
            used_inodes: 0,
            limit_inodes: None,
        };
        let counts = self
            .synchronisation
            .last()
            .map(|report| report.counts)
            .unwrap_or_default();
        VolumeStatus {
            format: self.format.clone(),
            epoch: Epoch(3),
            position: Position(5),
            usage,
            trash: usage,
            objects: self.objects.len() as u64,
            object_bytes: 0,
            inline_bytes: 0,
            replication: Vec::new(),
            sessions: Vec::new(),
            synchronisation: SynchronisationStatus {
                counts,
                ..SynchronisationStatus::default()
            },
            checkpoint: Position::ZERO,
            archived: Position::ZERO,
            compaction: CompactionStatus::default(),
        }
    }
}

#[async_trait]
impl Transport for Service {
    async fn open(&self) -> Result<Stream, TransportError> {
        let (sender, from_client) = mpsc::channel(8);
        let (to_client, receiver) = mpsc::channel(8);
        tokio::spawn(self.clone().serve(from_client, to_client));
        Ok(Stream { sender, receiver })
    }
}

/// Two buckets in memory, and the metadata that names what is in them.
pub struct Region {
    pub service: Service,
    pub buckets: [MemoryBucket; 2],
    pub pair: BucketPair,
}

impl Region {
    pub fn new() -> Self {
        Self::with(|_, bucket| bucket)
    }

    /// With something around each bucket.
    pub fn with(wrap: impl Fn(Side, Arc<dyn Bucket>) -> Arc<dyn Bucket>) -> Self {
        let buckets = [MemoryBucket::new(), MemoryBucket::new()];
        let [primary, target] =
            Side::BOTH.map(|side| Some(wrap(side, Arc::new(buckets[side as usize].clone()))));
        let pair = BucketPair::new(Side::Primary, primary, target, PairOptions::default());
        Self {
            service: Service::new(),
            buckets,
            pair,
        }
    }

    /// Stores an object on some sides and names it in metadata.
    pub fn store(&self, number: u64, size_bytes: usize, stored: Sides) -> ObjectRecord {
        let object = id(number);
        let body = body(number, size_bytes);
        for side in stored.iter() {
            self.buckets[side as usize].tamper(&object_key(object), Some(body.clone()));
        }
        let new = NewObject {
            object,
            stored_bytes: body.len() as u64,
            content_bytes: body.len() as u64,
            checksum: crc32c::crc32c(&body),
            present: stored,
        };
        self.service.lock().add(new);
        self.service.lock().objects[&object]
    }

    pub fn has(&self, side: Side, number: u64) -> bool {
        self.buckets[side as usize]
            .body(&object_key(id(number)))
            .is_some()
    }
}

pub const fn id(number: u64) -> ObjectId {
    ObjectId {
        epoch: Epoch(2),
        number,
    }
}

/// Bytes that differ from object to object.
pub fn body(number: u64, size_bytes: usize) -> Bytes {
    number
        .to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .take(size_bytes)
        .collect()
}
