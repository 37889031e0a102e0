//! Tests of the core: tables of rules by subject, and random operations against a naive model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod claims;
mod compaction;
mod copies;
mod data;
mod model;
mod namespace;
mod objects;
mod permissions;
mod quotas;
mod service;
mod trash;
mod xattrs;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::message::{Invalidation, Role, SessionDescription};
use twinshore_protocol::operation::{FileCommit, FileWrite, NewInode, NewObject, RenameMode};
use twinshore_protocol::{
    Attributes, Caller, Epoch, Errno, ExtentSource, FileName, FileType, InodeNumber, ObjectId, Operation,
    Position, Reply, SessionId, Side, Sides, Timestamp, VolumeId,
};

use super::{Context, Maintenance, Outcome, VolumeLimits, check, maintain, step};
use crate::view::ViewStore;
use crate::view::memory::MemoryView;

pub(super) const ROOT: InodeNumber = InodeNumber::ROOT;
pub(super) const SESSION: SessionId = SessionId(1);

pub(super) fn user(id: u32) -> Caller {
    Caller {
        user: id,
        group: id,
        groups: Vec::new(),
    }
}

pub(super) fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

pub(super) fn settings() -> VolumeSettings {
    let region = |name: &str| RegionFormat {
        name: name.into(),
        bucket: format!("file:///{name}"),
    };
    VolumeSettings {
        primary: region("east"),
        target: Some(region("west")),
        replication_enabled: true,
        compression: Compression::None,
        durability: Durability::Close,
        inline_limit_bytes: 16 << 10,
        trash_retention_seconds: 0,
        synchronisation_interval_seconds: 0,
        bandwidth_limit_bytes_per_second: [0, 0],
    }
}

/// A volume, its clock, and buckets that hold what was stored.
pub(super) struct World {
    pub view: MemoryView,
    pub now: Timestamp,
    pub epoch: Epoch,
    pub open: BTreeSet<InodeNumber>,
    pub caller: Caller,
    pub store: BTreeMap<ObjectId, Vec<u8>>,
    pub changes: Vec<Invalidation>,
    /// Every step is followed by a look at the whole state.
    pub checked: bool,
    next_inode: u64,
    next_object: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with_trash() -> Self {
        Self::with(VolumeSettings {
            trash_retention_seconds: 86_400,
            ..settings()
        })
    }

    pub fn with(settings: VolumeSettings) -> Self {
        let mut world = Self {
            view: MemoryView::new(),
            now: Timestamp {
                seconds: 1000,
                nanoseconds: 0,
            },
            epoch: Epoch(1),
            open: BTreeSet::new(),
            caller: Caller::ROOT,
            store: BTreeMap::new(),
            changes: Vec::new(),
            checked: true,
            next_inode: 0,
            next_object: 0,
        };
        let format = VolumeFormat {
            version: FORMAT_VERSION,
            volume: VolumeId([7; 16]),
            name: "test".into(),
            encryption: Encryption::None,
            settings,
        };
        let limits = VolumeLimits::default();
        world
            .maintain(&Maintenance::CreateVolume { format, limits })
            .unwrap();
        world
            .maintain(&Maintenance::StartEpoch { epoch: Epoch(1) })
            .unwrap();
        let (role, near, description) = (Role::Client, Side::Primary, SessionDescription::default());
        let opened = world
            .maintain(&Maintenance::OpenSession {
                session: SESSION,
                role,
                near,
                description,
            })
            .unwrap();
        let Reply::Granted { inodes, objects } = opened else {
            panic!("{opened:?}")
        };
        (world.next_inode, world.next_object) = (inodes.start, objects.start);
        world
    }

    fn apply(&mut self, outcome: Outcome) -> Result<Reply, Errno> {
        if outcome.result.is_err() {
            assert!(
                outcome.mutations.is_empty() && outcome.changes.is_empty(),
                "a failure has no effect"
            );
        } else if !outcome.mutations.is_empty() {
            self.view
                .apply(self.view.applied().next(), &outcome.mutations)
                .unwrap();
        }
        self.changes = outcome.changes;
        outcome.result
    }

    fn in_context<T>(&self, run: impl FnOnce(&Context<'_>) -> T) -> T {
        run(&Context {
            now: self.now,
            position: self.view.applied().next(),
            epoch: self.epoch,
            session: SESSION,
            near: Side::Primary,
            caller: &self.caller,
            open: &self.open,
        })
    }

    /// Time passes with every operation, so that times tell what was touched.
    pub fn tick(&mut self) -> Timestamp {
        self.now = self.now.plus_seconds(1);
        self.now
    }

    pub fn run(&mut self, operation: &Operation) -> Result<Reply, Errno> {
        loop {
            if let Some(result) = self.run_part(operation) {
                return result;
            }
        }
    }

    /// The next part of an operation: `None` as long as it is unfinished.
    pub fn run_part(&mut self, operation: &Operation) -> Option<Result<Reply, Errno>> {
        self.tick();
        let outcome = self
            .in_context(|context| step(&self.view, context, operation))
            .unwrap();
        if !operation.is_mutation() {
            assert!(outcome.mutations.is_empty(), "{operation:?} is no mutation");
        }
        let unfinished = outcome.unfinished;
        let result = self.apply(outcome);
        self.assert_consistent(operation);
        (!unfinished).then_some(result)
    }

    pub fn run_as(&mut self, caller: &Caller, operation: &Operation) -> Result<Reply, Errno> {
        let before = std::mem::replace(&mut self.caller, caller.clone());
        let result = self.run(operation);
        self.caller = before;
        result
    }

    pub fn maintain(&mut self, maintenance: &Maintenance) -> Result<Reply, Errno> {
        self.tick();
        let outcome = self
            .in_context(|context| maintain(&self.view, context, maintenance))
            .unwrap();
        let result = self.apply(outcome);
        self.assert_consistent(maintenance);
        result
    }

    pub fn assert_consistent(&self, after: &dyn std::fmt::Debug) {
        if !self.checked {
            return;
        }
        let problems = check::consistency(&self.view).unwrap();
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "after {after:?}:\n{}", text.join("\n"));
    }

    /// Cleans up until nothing is left; tells how many pieces it took.
    pub fn clean_up(&mut self, limit: usize) -> usize {
        for pieces in 0..10_000 {
            if self.maintain(&Maintenance::CleanUp {
                limit,
                archived: Position(u64::MAX),
            }) == Ok(Reply::Offset(0))
            {
                return pieces;
            }
        }
        panic!("cleaning up does not end");
    }

    pub fn new_inode(&mut self) -> InodeNumber {
        self.next_inode += 1;
        InodeNumber(self.next_inode - 1)
    }

    pub fn new_object(&mut self, content: &[u8], present: Sides) -> NewObject {
        self.next_object += 1;
        let object = ObjectId {
            epoch: self.epoch,
            number: self.next_object - 1,
        };
        self.store.insert(object, content.to_vec());
        let content_bytes = content.len() as u64;
        NewObject {
            object,
            stored_bytes: content_bytes + 10,
            content_bytes,
            checksum: 5,
            present,
        }
    }

    pub fn create_as(
        &mut self,
        caller: &Caller,
        parent: InodeNumber,
        text: &str,
        mode: u16,
    ) -> Result<Attributes, Errno> {
        let new = NewInode {
            inode: self.new_inode(),
            mode,
            umask: 0o022,
        };
        let operation = Operation::Create {
            parent,
            name: name(text),
            new,
            exclusive: true,
            truncate: false,
        };
        match self.run_as(caller, &operation)? {
            Reply::Created {
                attributes,
                new: true,
                ..
            } => Ok(attributes),
            other => panic!("{other:?}"),
        }
    }

    pub fn create(&mut self, parent: InodeNumber, text: &str) -> InodeNumber {
        self.create_as(&Caller::ROOT, parent, text, 0o644).unwrap().inode
    }

    pub fn mkdir_as(
        &mut self,
        caller: &Caller,
        parent: InodeNumber,
        text: &str,
        mode: u16,
    ) -> Result<Attributes, Errno> {
        let new = NewInode {
            inode: self.new_inode(),
            mode,
            umask: 0,
        };
        self.run_as(
            caller,
            &Operation::MakeDirectory {
                parent,
                name: name(text),
                new,
            },
        )
        .map(entry)
    }

    pub fn mkdir(&mut self, parent: InodeNumber, text: &str) -> InodeNumber {
        self.mkdir_as(&Caller::ROOT, parent, text, 0o755).unwrap().inode
    }

    pub fn link(&mut self, inode: InodeNumber, parent: InodeNumber, text: &str) -> Result<Attributes, Errno> {
        self.run(&Operation::Link {
            inode,
            parent,
            name: name(text),
        })
        .map(entry)
    }

    pub fn unlink(&mut self, parent: InodeNumber, text: &str) -> Result<Reply, Errno> {
        self.run(&Operation::Unlink {
            parent,
            name: name(text),
        })
    }

    pub fn rmdir(&mut self, parent: InodeNumber, text: &str) -> Result<Reply, Errno> {
        self.run(&Operation::RemoveDirectory {
            parent,
            name: name(text),
        })
    }

    pub fn rename(
        &mut self,
        from: (InodeNumber, &str),
        to: (InodeNumber, &str),
        mode: RenameMode,
    ) -> Result<Reply, Errno> {
        let (name, new_name) = (name(from.1), name(to.1));
        self.run(&Operation::Rename {
            parent: from.0,
            name,
            new_parent: to.0,
            new_name,
            mode,
        })
    }

    pub fn stat(&mut self, inode: InodeNumber) -> Attributes {
        self.try_stat(inode).unwrap()
    }

    pub fn try_stat(&mut self, inode: InodeNumber) -> Result<Attributes, Errno> {
        match self.run(&Operation::GetAttributes { inode })? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => panic!("{other:?}"),
        }
    }

    pub fn lookup(&mut self, parent: InodeNumber, text: &str) -> Result<InodeNumber, Errno> {
        self.run(&Operation::Lookup {
            parent,
            name: name(text),
        })
        .map(|reply| entry(reply).inode)
    }

    pub fn set(
        &mut self,
        caller: &Caller,
        inode: InodeNumber,
        changes: AttributeChanges,
    ) -> Result<Attributes, Errno> {
        match self.run_as(caller, &Operation::SetAttributes { inode, changes })? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => panic!("{other:?}"),
        }
    }

    pub fn truncate(&mut self, inode: InodeNumber, size: u64) -> Result<Attributes, Errno> {
        self.set(
            &Caller::ROOT,
            inode,
            AttributeChanges {
                size_bytes: Some(size),
                ..AttributeChanges::default()
            },
        )
    }

    pub fn write_inline(&mut self, inode: InodeNumber, offset: u64, bytes: &[u8]) -> Result<Reply, Errno> {
        let source = ExtentSource::Inline(Bytes::copy_from_slice(bytes));
        self.write_source(inode, offset, bytes.len() as u64, source, &[])
    }

    /// Stores an object that is present on one side and makes it the content of a range.
    pub fn write_object(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        bytes: &[u8],
        present: Sides,
    ) -> Result<ObjectId, Errno> {
        let new = self.new_object(bytes, present);
        let source = ExtentSource::Object {
            object: new.object,
            object_offset: 0,
            present,
        };
        self.write_source(inode, offset, bytes.len() as u64, source, &[new])
            .map(|_| new.object)
    }

    pub fn write_source(
        &mut self,
        inode: InodeNumber,
        file_offset: u64,
        length: u64,
        source: ExtentSource,
        objects: &[NewObject],
    ) -> Result<Reply, Errno> {
        let writes = vec![FileWrite {
            file_offset,
            length,
            source,
        }];
        let files = vec![FileCommit {
            inode,
            writes,
            modified: None,
            clear_privileges: false,
        }];
        self.run(&Operation::Commit {
            objects: objects.to_vec(),
            files,
        })
    }

    /// The content of a file, byte by byte, as a reader would assemble it.
    pub fn content(&mut self, inode: InodeNumber) -> Vec<u8> {
        let size = self.stat(inode).size_bytes;
        let mut content = vec![0; usize::try_from(size).unwrap()];
        let mut offset = 0;
        while offset < size {
            let asked = Operation::GetExtents {
                inode,
                offset,
                length: size - offset,
            };
            let Reply::Extents {
                extents,
                covered_until,
                ..
            } = self.run(&asked).unwrap()
            else {
                panic!()
            };
            for extent in extents {
                let range =
                    usize::try_from(extent.file_offset).unwrap()..usize::try_from(extent.end()).unwrap();
                match extent.source {
                    ExtentSource::Object {
                        object,
                        object_offset,
                        present,
                    } => {
                        assert!(!present.is_empty());
                        let stored = &self.store[&object][usize::try_from(object_offset).unwrap()..];
                        let length = range.len();
                        content[range].copy_from_slice(&stored[..length]);
                    }
                    ExtentSource::Inline(bytes) => content[range].copy_from_slice(&bytes),
                    ExtentSource::Reserved => {}
                }
            }
            assert!(covered_until > offset);
            offset = covered_until;
        }
        content
    }

    pub fn usage(&mut self, directory: InodeNumber) -> (u64, u64) {
        match self.run(&Operation::GetUsage { directory }).unwrap() {
            Reply::DirectoryUsage(usage) => (usage.used_bytes, usage.used_inodes),
            other => panic!("{other:?}"),
        }
    }

    pub fn set_quota(&mut self, directory: InodeNumber, limit_bytes: Option<u64>, limit_inodes: Option<u64>) {
        let operation = Operation::SetQuota {
            directory,
            limit_bytes,
            limit_inodes,
        };
        assert_eq!(self.run(&operation), Ok(Reply::Done));
    }

    pub fn list(
        &mut self,
        directory: InodeNumber,
        limit: u32,
    ) -> BTreeMap<FileName, (InodeNumber, FileType)> {
        let mut found = BTreeMap::new();
        let mut after = 0;
        loop {
            let asked = Operation::ReadDirectory {
                directory,
                after,
                limit,
                with_attributes: true,
                until: None,
            };
            let Reply::Directory {
                entries, complete, ..
            } = self.run(&asked).unwrap()
            else {
                panic!()
            };
            for entry in entries {
                assert!(entry.cookie > after || found.is_empty() || entry.cookie == after);
                assert_eq!(entry.attributes.unwrap().inode, entry.inode);
                after = entry.cookie;
                assert!(
                    found.insert(entry.name, (entry.inode, entry.kind)).is_none(),
                    "listed twice"
                );
            }
            if complete {
                return found;
            }
        }
    }

    pub fn position(&self) -> Position {
        self.view.applied()
    }
}

pub(super) fn entry(reply: Reply) -> Attributes {
    match reply {
        Reply::Entry(attributes) => attributes,
        other => panic!("{other:?}"),
    }
}

pub(super) fn removed(reply: Reply) -> Attributes {
    match reply {
        Reply::Removed { attributes, .. } => attributes,
        other => panic!("{other:?}"),
    }
}
