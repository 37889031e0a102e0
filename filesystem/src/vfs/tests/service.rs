//! A metadata service of one page: it executes one operation after the other, and answers a change when every other client
//! has acknowledged it. It checks what a client must never do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use twinshore_protocol::attributes::TimeChange;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::lock::{Lock, LockKind};
use twinshore_protocol::message::{
    ClientMessage, Delegated, Invalidation, LEASE_SECONDS, ServerMessage, Welcome,
};
use twinshore_protocol::operation::{AllocateMode, FileCommit, NewObject, RenameMode};
use twinshore_protocol::reply::{DirectoryEntry, FileSystemUsage};
use twinshore_protocol::session::{Stream, Transport, TransportError};
use twinshore_protocol::{
    Attributes, Epoch, Errno, ExtentSource, FileName, FileType, InodeNumber, ObjectId, Operation, Position,
    Reply, SessionId, Timestamp, VolumeId,
};
use twinshore_storage::memory::MemoryBucket;
use twinshore_storage::object::object_key;

use crate::vfs::extents::ExtentCache;

pub const INLINE_LIMIT_BYTES: u32 = 4096;

struct Node {
    attributes: Attributes,
    extents: ExtentCache,
    names: BTreeMap<FileName, InodeNumber>,
    values: BTreeMap<Bytes, Bytes>,
}

pub struct State {
    position: u64,
    nodes: BTreeMap<InodeNumber, Node>,
    pub objects: BTreeMap<ObjectId, NewObject>,
    pub opens: BTreeMap<(SessionId, InodeNumber), u32>,
    pub locks: BTreeMap<InodeNumber, Vec<(SessionId, Lock)>>,
    streams: BTreeMap<SessionId, mpsc::Sender<Vec<ServerMessage>>>,
    acknowledgements: BTreeMap<(SessionId, u64), oneshot::Sender<()>>,
    last_invalidation: u64,
    last_session: u64,
    numbers: u64,
    /// Every operation in the order of execution.
    pub log: Vec<Operation>,
    /// What the next commits answer instead of being executed.
    pub commit_faults: VecDeque<Errno>,
    pub expired: BTreeSet<SessionId>,
    pub durability: Durability,
    pub bucket_keys: Vec<MemoryBucket>,
}

/// The service.
pub struct Service {
    pub state: Mutex<State>,
    /// One operation at a time, the acknowledgements of its change included.
    turn: tokio::sync::Mutex<()>,
}

fn time(position: u64) -> Timestamp {
    Timestamp {
        seconds: 1_000_000 + i64::try_from(position).unwrap(),
        nanoseconds: 0,
    }
}

fn node(inode: InodeNumber, kind: FileType, position: u64) -> Node {
    let now = time(position);
    Node {
        attributes: Attributes {
            inode,
            kind,
            mode: 0o644,
            links: 1,
            user: 0,
            group: 0,
            device: 0,
            size_bytes: 0,
            allocated_bytes: 0,
            accessed: now,
            modified: now,
            changed: now,
            content_version: Position(position),
            has_extended_attributes: false,
        },
        extents: ExtentCache::empty_file(),
        names: BTreeMap::new(),
        values: BTreeMap::new(),
    }
}

impl Service {
    pub fn new() -> Arc<Self> {
        let state = State {
            position: 1,
            nodes: BTreeMap::from([(InodeNumber::ROOT, node(InodeNumber::ROOT, FileType::Directory, 1))]),
            objects: BTreeMap::new(),
            opens: BTreeMap::new(),
            locks: BTreeMap::new(),
            streams: BTreeMap::new(),
            acknowledgements: BTreeMap::new(),
            last_invalidation: 0,
            last_session: 0,
            numbers: 100,
            log: Vec::new(),
            commit_faults: VecDeque::new(),
            expired: BTreeSet::new(),
            durability: Durability::Close,
            bucket_keys: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub fn transport(self: &Arc<Self>) -> Arc<dyn Transport> {
        Arc::new(Dial {
            service: Arc::clone(self),
        })
    }

    /// How often an operation of a kind was executed.
    pub fn count(&self, what: impl Fn(&Operation) -> bool) -> usize {
        self.state
            .lock()
            .unwrap()
            .log
            .iter()
            .filter(|operation| what(operation))
            .count()
    }

    pub fn attributes(&self, inode: InodeNumber) -> Attributes {
        self.state.lock().unwrap().nodes[&inode].attributes
    }

    /// Ends all sessions, as after a partition.
    pub fn expire_all(&self) {
        let mut state = self.state.lock().unwrap();
        let streams = std::mem::take(&mut state.streams);
        for (session, stream) in streams {
            state.expired.insert(session);
            let _ = stream.try_send(vec![ServerMessage::Expired]);
        }
        state.opens.clear();
        state.locks.clear();
    }

    /// Removes an inode behind everybody's back.
    pub fn destroy(&self, inode: InodeNumber) {
        self.state.lock().unwrap().nodes.remove(&inode);
    }
}

struct Dial {
    service: Arc<Service>,
}

#[async_trait]
impl Transport for Dial {
    async fn open(&self) -> Result<Stream, TransportError> {
        let (sender, from_client) = mpsc::channel(64);
        let (to_client, receiver) = mpsc::channel(4096);
        tokio::spawn(serve(Arc::clone(&self.service), from_client, to_client));
        Ok(Stream { sender, receiver })
    }
}

async fn serve(
    service: Arc<Service>,
    mut from_client: mpsc::Receiver<Vec<ClientMessage>>,
    to_client: mpsc::Sender<Vec<ServerMessage>>,
) {
    let (requests, mut queue) = mpsc::unbounded_channel();
    let mut session = SessionId(0);
    let worker = {
        let (service, to_client) = (Arc::clone(&service), to_client.clone());
        tokio::spawn(async move {
            while let Some((session, number, operation)) = queue.recv().await {
                let _turn = service.turn.lock().await;
                let (result, changes) = service.execute(session, &operation);
                service.tell_others(session, changes).await;
                let position = Position(service.state.lock().unwrap().position);
                if to_client
                    .send(vec![ServerMessage::Reply {
                        number,
                        position,
                        result,
                        directories: Vec::new(),
                        superseded: Vec::new(),
                        delegated: Delegated::default(),
                    }])
                    .await
                    .is_err()
                {
                    return;
                }
            }
        })
    };
    while let Some(messages) = from_client.recv().await {
        for message in messages {
            match message {
                ClientMessage::Hello(_) => {
                    let welcome = service.welcome(&to_client);
                    session = welcome.session;
                    let _ = to_client
                        .send(vec![ServerMessage::Welcome(Box::new(welcome))])
                        .await;
                }
                ClientMessage::Reclaim(_) | ClientMessage::Returned { .. } => {}
                ClientMessage::Request {
                    number, operation, ..
                } => {
                    if !service.state.lock().unwrap().expired.contains(&session) {
                        let _ = requests.send((session, number, operation));
                    }
                }
                ClientMessage::Acknowledge { number } => {
                    let waiter = service
                        .state
                        .lock()
                        .unwrap()
                        .acknowledgements
                        .remove(&(session, number));
                    if let Some(waiter) = waiter {
                        let _ = waiter.send(());
                    }
                }
                ClientMessage::Heartbeat { number } => {
                    let _ = to_client
                        .send(vec![ServerMessage::HeartbeatReply { number, time: None }])
                        .await;
                }
                ClientMessage::Goodbye => {
                    service.state.lock().unwrap().streams.remove(&session);
                    return;
                }
            }
        }
    }
    drop(requests);
    let _ = worker.await;
}

impl Service {
    fn welcome(&self, stream: &mpsc::Sender<Vec<ServerMessage>>) -> Welcome {
        let mut state = self.state.lock().unwrap();
        state.last_session += 1;
        let session = SessionId(state.last_session);
        state.streams.insert(session, stream.clone());
        let numbers = state.grant();
        let region = |name: &str| RegionFormat {
            name: name.to_owned(),
            bucket: format!("file:///{name}"),
        };
        Welcome {
            session,
            epoch: Epoch(1),
            position: Position(state.position),
            format: VolumeFormat {
                version: FORMAT_VERSION,
                volume: VolumeId([7; 16]),
                name: "test".to_owned(),
                encryption: Encryption::None,
                settings: VolumeSettings {
                    primary: region("east"),
                    target: Some(region("west")),
                    replication_enabled: true,
                    compression: Compression::None,
                    durability: state.durability,
                    inline_limit_bytes: INLINE_LIMIT_BYTES,
                    trash_retention_seconds: 0,
                    synchronisation_interval_seconds: 0,
                    bandwidth_limit_bytes_per_second: [0; 2],
                },
            },
            inodes: numbers,
            objects: numbers,
            objects_epoch: Epoch(1),
            lease_seconds: LEASE_SECONDS,
        }
    }

    async fn tell_others(&self, cause: SessionId, changes: Vec<Invalidation>) {
        if changes.is_empty() {
            return;
        }
        let mut waiters = Vec::new();
        {
            let mut state = self.state.lock().unwrap();
            let others: Vec<_> = state
                .streams
                .iter()
                .filter(|(session, _)| **session != cause)
                .map(|(s, t)| (*s, t.clone()))
                .collect();
            for (session, stream) in others {
                state.last_invalidation += 1;
                let number = state.last_invalidation;
                let (done, acknowledged) = oneshot::channel();
                state.acknowledgements.insert((session, number), done);
                if stream
                    .try_send(vec![ServerMessage::Invalidate {
                        number,
                        items: changes.clone(),
                    }])
                    .is_ok()
                {
                    waiters.push(acknowledged);
                }
            }
        }
        for waiter in waiters {
            let _ = tokio::time::timeout(Duration::from_secs(LEASE_SECONDS), waiter).await;
        }
    }

    fn execute(
        &self,
        session: SessionId,
        operation: &Operation,
    ) -> (Result<Reply, Errno>, Vec<Invalidation>) {
        let mut state = self.state.lock().unwrap();
        state.log.push(operation.clone());
        let mut changes = Vec::new();
        if operation.is_mutation() {
            state.position += 1;
        }
        let result = state.step(session, operation, &mut changes);
        if result.is_err() {
            changes.clear();
        }
        (result, changes)
    }
}

impl State {
    fn grant(&mut self) -> NumberRange {
        self.numbers += 10_000;
        NumberRange {
            start: self.numbers,
            end: self.numbers + 10_000,
        }
    }

    fn node(&mut self, inode: InodeNumber) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&inode).ok_or(Errno::Stale)
    }

    fn child(&mut self, parent: InodeNumber, name: &FileName) -> Result<InodeNumber, Errno> {
        self.node(parent)?.names.get(name).copied().ok_or(Errno::NotFound)
    }

    fn make(
        &mut self,
        parent: InodeNumber,
        name: &FileName,
        inode: InodeNumber,
        kind: FileType,
    ) -> Result<Attributes, Errno> {
        let position = self.position;
        let directory = self.node(parent)?;
        if directory.names.contains_key(name) {
            return Err(Errno::Exists);
        }
        directory.names.insert(name.clone(), inode);
        directory.attributes.modified = time(position);
        let made = node(inode, kind, position);
        let attributes = made.attributes;
        assert!(
            self.nodes.insert(inode, made).is_none(),
            "an inode number was used twice"
        );
        Ok(attributes)
    }

    #[allow(clippy::too_many_lines)]
    fn step(
        &mut self,
        session: SessionId,
        operation: &Operation,
        changes: &mut Vec<Invalidation>,
    ) -> Result<Reply, Errno> {
        let position = self.position;
        match operation {
            Operation::Lookup { parent, name } => {
                let inode = self.child(*parent, name)?;
                Ok(Reply::Entry(self.node(inode)?.attributes))
            }
            Operation::GetAttributes { inode } => Ok(Reply::Attributes(self.node(*inode)?.attributes)),
            Operation::SetAttributes { inode, changes: set } => {
                changes.push(Invalidation::Content(*inode));
                let node = self.node(*inode)?;
                let attributes = &mut node.attributes;
                if let Some(size) = set.size_bytes {
                    node.extents.truncate(size);
                    attributes.size_bytes = size;
                    attributes.modified = time(position);
                    attributes.content_version = Position(position);
                }
                if let Some(mode) = set.mode {
                    attributes.mode = mode;
                }
                attributes.user = set.user.unwrap_or(attributes.user);
                attributes.group = set.group.unwrap_or(attributes.group);
                for (change, at) in [
                    (set.accessed, &mut attributes.accessed),
                    (set.modified, &mut attributes.modified),
                ] {
                    match change {
                        Some(TimeChange::To(to)) => *at = to,
                        Some(TimeChange::Now) => *at = time(position),
                        None => {}
                    }
                }
                attributes.changed = time(position);
                Ok(Reply::Attributes(*attributes))
            }
            Operation::MakeDirectory { parent, name, new } => {
                changes.push(Invalidation::Entry(*parent, name.clone()));
                Ok(Reply::Entry(self.make(
                    *parent,
                    name,
                    new.inode,
                    FileType::Directory,
                )?))
            }
            Operation::Create {
                parent,
                name,
                new,
                exclusive,
                truncate,
            } => {
                let (inode, made) = match self.child(*parent, name) {
                    Ok(_) if *exclusive => return Err(Errno::Exists),
                    Ok(inode) => (inode, false),
                    Err(_) => {
                        changes.push(Invalidation::Entry(*parent, name.clone()));
                        changes.push(Invalidation::Attributes(*parent));
                        (
                            self.make(*parent, name, new.inode, FileType::Regular)?.inode,
                            true,
                        )
                    }
                };
                *self.opens.entry((session, inode)).or_default() += 1;
                if *truncate && !made {
                    changes.push(Invalidation::Content(inode));
                    self.empty(inode)?;
                }
                Ok(Reply::Created {
                    attributes: self.node(inode)?.attributes,
                    new: made,
                    private: made && self.durability == Durability::Fsync,
                })
            }
            Operation::Unlink { parent, name } => {
                let inode = self.child(*parent, name)?;
                changes.push(Invalidation::Entry(*parent, name.clone()));
                changes.push(Invalidation::Attributes(inode));
                self.node(*parent)?.names.remove(name);
                let node = self.node(inode)?;
                node.attributes.links -= 1;
                let attributes = node.attributes;
                Ok(Reply::Removed {
                    attributes,
                    parent: self.node(*parent)?.attributes,
                })
            }
            Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode: RenameMode::Replace,
            } => {
                let moved = self.child(*parent, name)?;
                changes.push(Invalidation::Entry(*parent, name.clone()));
                changes.push(Invalidation::Entry(*new_parent, new_name.clone()));
                self.node(*parent)?.names.remove(name);
                let replaced = self.node(*new_parent)?.names.insert(new_name.clone(), moved);
                let replaced = replaced.map(|inode| self.nodes[&inode].attributes);
                Ok(Reply::Renamed {
                    moved: self.node(moved)?.attributes,
                    replaced,
                })
            }
            Operation::Open { inode, truncate } => {
                self.node(*inode)?;
                *self.opens.entry((session, *inode)).or_default() += 1;
                if *truncate {
                    changes.push(Invalidation::Content(*inode));
                    self.empty(*inode)?;
                }
                Ok(Reply::Attributes(self.node(*inode)?.attributes))
            }
            Operation::Release { inode } => {
                let count = self
                    .opens
                    .get_mut(&(session, *inode))
                    .expect("released more often than opened");
                *count -= 1;
                if *count == 0 {
                    self.opens.remove(&(session, *inode));
                }
                Ok(Reply::Done)
            }
            Operation::ReadDirectory {
                directory,
                after,
                limit,
                with_attributes,
                until,
            } => {
                let names: Vec<_> = self.node(*directory)?.names.clone().into_iter().collect();
                // The place in the order of names, spread over all cookies, is one for as long as a test changes nothing.
                let apart = ((1 << 63) - 1) / (names.len() as u64 + 1);
                let mut entries = Vec::new();
                for (index, (name, inode)) in names.iter().enumerate() {
                    let cookie = (index as u64 + 1) * apart;
                    let is_asked_for = cookie > *after && until.is_none_or(|until| cookie <= until);
                    if is_asked_for && entries.len() < *limit as usize {
                        let attributes = self.node(*inode)?.attributes;
                        entries.push(DirectoryEntry {
                            name: name.clone(),
                            inode: *inode,
                            kind: attributes.kind,
                            cookie,
                            attributes: with_attributes.then_some(attributes),
                        });
                    }
                }
                let next = entries.last().map_or(u64::MAX, |entry| entry.cookie + apart);
                let complete = next > until.unwrap_or(u64::MAX).min(names.len() as u64 * apart);
                let parent = self
                    .nodes
                    .iter()
                    .find(|(_, node)| node.names.values().any(|inode| inode == directory))
                    .map_or(*directory, |(parent, _)| *parent);
                Ok(Reply::Directory {
                    entries,
                    complete,
                    parent: Some(parent),
                })
            }
            Operation::GetExtents {
                inode,
                offset,
                length,
            } => {
                let node = self.node(*inode)?;
                // Few at a time, so that clients have to ask again.
                let mut extents = node.extents.slice(*offset, offset.saturating_add(*length));
                let mut covered_until = offset.saturating_add(*length);
                if extents.len() > 5 {
                    extents.truncate(5);
                    covered_until = extents[4].end();
                }
                Ok(Reply::Extents {
                    extents,
                    covered_until,
                    attributes: node.attributes,
                })
            }
            Operation::Commit { objects, files } => self.commit(objects, files, changes),
            Operation::Allocate {
                inode,
                offset,
                length,
                mode,
            } => {
                changes.push(Invalidation::Content(*inode));
                let node = self.node(*inode)?;
                let end = offset + length;
                let grow = match mode {
                    AllocateMode::PunchHole => false,
                    AllocateMode::Reserve { keep_size } | AllocateMode::Zero { keep_size } => !keep_size,
                };
                if !matches!(mode, AllocateMode::Reserve { .. }) {
                    node.extents.write(*offset, *length, ExtentSource::Reserved);
                }
                if grow {
                    node.attributes.size_bytes = node.attributes.size_bytes.max(end);
                }
                node.attributes.content_version = Position(position);
                Ok(Reply::Attributes(node.attributes))
            }
            Operation::GetExtendedAttribute { inode, name } => Ok(Reply::Bytes(
                self.node(*inode)?
                    .values
                    .get(name)
                    .cloned()
                    .ok_or(Errno::NoData)?,
            )),
            Operation::SetExtendedAttribute {
                inode, name, value, ..
            } => {
                changes.push(Invalidation::Attributes(*inode));
                self.node(*inode)?.values.insert(name.clone(), value.clone());
                Ok(Reply::Done)
            }
            Operation::SetLock { inode, lock, .. } => {
                let held = self.locks.entry(*inode).or_default();
                if lock.kind == LockKind::Unlock {
                    held.retain(|(owner, other)| *owner != session || other.owner != lock.owner);
                    return Ok(Reply::Done);
                }
                if held
                    .iter()
                    .any(|(owner, other)| *owner != session || other.owner != lock.owner)
                {
                    return Err(Errno::Again);
                }
                held.push((session, *lock));
                Ok(Reply::Done)
            }
            Operation::StatFileSystem { .. } => Ok(Reply::FileSystem(FileSystemUsage {
                used_bytes: 0,
                limit_bytes: None,
                used_inodes: self.nodes.len() as u64,
                limit_inodes: None,
            })),
            Operation::GrantNumbers => {
                let inodes = self.grant();
                Ok(Reply::Granted {
                    inodes,
                    objects: inodes,
                })
            }
            Operation::ReportCopies { .. } => Ok(Reply::Done),
            other => panic!("this service does not know {other:?}"),
        }
    }

    fn empty(&mut self, inode: InodeNumber) -> Result<(), Errno> {
        let position = self.position;
        let node = self.node(inode)?;
        node.extents = ExtentCache::empty_file();
        node.attributes.size_bytes = 0;
        node.attributes.modified = time(position);
        node.attributes.content_version = Position(position);
        Ok(())
    }

    fn commit(
        &mut self,
        objects: &[NewObject],
        files: &[FileCommit],
        changes: &mut Vec<Invalidation>,
    ) -> Result<Reply, Errno> {
        if let Some(errno) = self.commit_faults.pop_front() {
            return Err(errno);
        }
        let position = self.position;
        for file in files {
            self.node(file.inode)?;
        }
        for object in objects {
            assert!(
                self.objects.insert(object.object, *object).is_none(),
                "an object was named twice"
            );
            let key = object_key(object.object);
            assert!(
                self.bucket_keys.iter().any(|bucket| bucket.body(&key).is_some()),
                "metadata was committed before its data was stored"
            );
        }
        let mut attributes = Vec::new();
        for file in files {
            changes.push(Invalidation::Content(file.inode));
            for write in &file.writes {
                assert!(write.length > 0, "an empty write was committed");
                match &write.source {
                    ExtentSource::Inline(bytes) => {
                        assert!(
                            bytes.len() <= INLINE_LIMIT_BYTES as usize && bytes.len() as u64 == write.length
                        );
                    }
                    ExtentSource::Object {
                        object,
                        object_offset,
                        ..
                    } => {
                        assert!(self.objects[object].content_bytes >= object_offset + write.length);
                    }
                    ExtentSource::Reserved => panic!("a commit of reserved space"),
                }
            }
            let node = self.node(file.inode)?;
            for write in &file.writes {
                node.extents
                    .write(write.file_offset, write.length, write.source.clone());
                let end = write.file_offset + write.length;
                node.attributes.size_bytes = node.attributes.size_bytes.max(end);
            }
            node.attributes.modified = file.modified.unwrap_or(time(position));
            node.attributes.changed = time(position);
            node.attributes.content_version = Position(position);
            if file.clear_privileges {
                node.attributes.mode &= 0o1777;
            }
            attributes.push(node.attributes);
        }
        Ok(Reply::Committed { attributes })
    }
}
