//! Random operations, against the core and against a naive model: a plain tree with the bytes of its files.
//!
//! After every step the whole state is checked for consistency (usage of every directory, live bytes of every object,
//! the outbox), and results, contents, links, usage and listings are compared with the model.

#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // Everything is small here.

use proptest::prelude::*;
use twinshore_protocol::operation::{AllocateMode, ExtentExchange, SeekTarget};
use twinshore_protocol::replication::{CopyReport, TaskOutcome};

use super::compaction::{Rewriting, limits};
use super::*;
use crate::core::compaction::{Cursor, find};
use crate::core::outbox;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Hole,
    Reserved,
    Data(u8),
}

#[derive(Clone, Debug)]
struct Node {
    kind: FileType,
    /// May be longer than the size: reserved space beyond the end.
    bytes: Vec<Byte>,
    size: usize,
    entries: BTreeMap<FileName, u64>,
    first: Option<(u64, FileName)>,
    others: BTreeSet<(u64, FileName)>,
    removed_from: Option<(u64, FileName)>,
}

impl Node {
    fn new(kind: FileType) -> Self {
        Self {
            kind,
            bytes: Vec::new(),
            size: 0,
            entries: BTreeMap::new(),
            first: None,
            others: BTreeSet::new(),
            removed_from: None,
        }
    }

    fn allocated(&self) -> i64 {
        self.bytes.iter().filter(|byte| **byte != Byte::Hole).count() as i64
    }

    fn content(&self) -> Vec<u8> {
        (0..self.size)
            .map(|at| {
                if let Some(Byte::Data(byte)) = self.bytes.get(at) {
                    *byte
                } else {
                    0
                }
            })
            .collect()
    }

    fn fill(&mut self, start: usize, values: impl IntoIterator<Item = Byte>) {
        for (at, value) in (start..).zip(values) {
            if self.bytes.len() <= at {
                self.bytes.resize(at + 1, Byte::Hole);
            }
            self.bytes[at] = value;
        }
    }

    fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }
}

#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<u64, Node>,
    quotas: BTreeMap<u64, (Option<i64>, Option<i64>)>,
    /// Growth that limits do not apply to: another name became the first one.
    ignored: BTreeMap<u64, (i64, i64)>,
    trash: bool,
}

type Answer = Result<(), Errno>;

impl Model {
    fn new(trash: bool) -> Self {
        let nodes = [(ROOT.0, Node::new(FileType::Directory))].into();
        Self {
            nodes,
            quotas: BTreeMap::new(),
            ignored: BTreeMap::new(),
            trash,
        }
    }

    fn parent(&self, id: u64) -> Option<u64> {
        self.nodes[&id].first.as_ref().map(|(parent, _)| *parent)
    }

    /// The directory and everything that holds it.
    fn chain(&self, id: u64) -> Vec<u64> {
        std::iter::successors(Some(id), |id| self.parent(*id)).collect()
    }

    fn usage(&self, directory: u64) -> (i64, i64) {
        let mut sums = (0, 1);
        for (id, node) in &self.nodes {
            if let Some(parent) = self.parent(*id)
                && self.chain(parent).contains(&directory)
            {
                sums = (sums.0 + node.allocated(), sums.1 + 1);
            }
        }
        sums
    }

    fn quota_directory(&self, directory: u64) -> u64 {
        self.chain(directory)
            .into_iter()
            .find(|id| self.quotas.contains_key(id))
            .unwrap_or(ROOT.0)
    }

    fn links(&self, id: u64) -> usize {
        let node = &self.nodes[&id];
        if node.is_directory() {
            let named = node.first.is_some() || id == ROOT.0;
            let below = node
                .entries
                .values()
                .filter(|id| self.nodes[id].is_directory())
                .count();
            if named { 2 + below } else { 0 }
        } else {
            usize::from(node.first.is_some()) + node.others.len()
        }
    }

    fn directory(&self, id: u64) -> Result<&Node, Errno> {
        let node = self.nodes.get(&id).ok_or(Errno::NotFound)?;
        if !node.is_directory() {
            return Err(Errno::NotDirectory);
        }
        if self.links(id) == 0 {
            Err(Errno::NotFound)
        } else {
            Ok(node)
        }
    }

    fn make(&mut self, parent: u64, name: &FileName, id: u64, kind: FileType) -> Answer {
        if self.directory(parent)?.entries.contains_key(name) {
            return Err(Errno::Exists);
        }
        self.nodes.insert(
            id,
            Node {
                first: Some((parent, name.clone())),
                ..Node::new(kind)
            },
        );
        self.nodes
            .get_mut(&parent)
            .unwrap()
            .entries
            .insert(name.clone(), id);
        Ok(())
    }

    fn drop_name(&mut self, id: u64, parent: u64, name: &FileName) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.others.remove(&(parent, name.clone())) {
            return;
        }
        node.first = node.others.pop_first();
        let weight = (node.allocated(), 1);
        match node.first.clone() {
            Some((next, _)) => {
                for directory in self.chain(next) {
                    let sums = self.ignored.entry(directory).or_default();
                    *sums = (sums.0 + weight.0, sums.1 + weight.1);
                }
            }
            None if self.trash => node.removed_from = Some((parent, name.clone())),
            None => {}
        }
    }

    fn remove(&mut self, parent: u64, name: &FileName, directory: bool) -> Answer {
        let id = *self.directory(parent)?.entries.get(name).ok_or(Errno::NotFound)?;
        let node = &self.nodes[&id];
        match (directory, node.is_directory()) {
            (true, false) => return Err(Errno::NotDirectory),
            (false, true) => return Err(Errno::IsDirectory),
            (true, true) if !node.entries.is_empty() => return Err(Errno::NotEmpty),
            _ => {}
        }
        self.nodes.get_mut(&parent).unwrap().entries.remove(name);
        self.drop_name(id, parent, name);
        Ok(())
    }

    fn link(&mut self, id: u64, parent: u64, name: &FileName) -> Answer {
        let node = self.nodes.get(&id).ok_or(Errno::Stale)?;
        if self.directory(parent)?.entries.contains_key(name) {
            return Err(Errno::Exists);
        }
        if node.is_directory() {
            return Err(Errno::NotPermitted);
        }
        let first = self.parent(id).ok_or(Errno::NotFound)?;
        if self.quota_directory(first) != self.quota_directory(parent) {
            return Err(Errno::CrossDevice);
        }
        self.nodes
            .get_mut(&id)
            .unwrap()
            .others
            .insert((parent, name.clone()));
        self.nodes
            .get_mut(&parent)
            .unwrap()
            .entries
            .insert(name.clone(), id);
        Ok(())
    }

    fn move_name(&mut self, id: u64, from: (u64, &FileName), to: (u64, &FileName)) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.others.remove(&(from.0, from.1.clone())) {
            node.others.insert((to.0, to.1.clone()));
        } else {
            node.first = Some((to.0, to.1.clone()));
        }
    }

    fn rename(&mut self, from: (u64, &FileName), to: (u64, &FileName), mode: RenameMode) -> Answer {
        self.directory(from.0)?;
        self.directory(to.0)?;
        let source = *self.nodes[&from.0].entries.get(from.1).ok_or(Errno::NotFound)?;
        let target = self.nodes[&to.0].entries.get(to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::Exists),
            (RenameMode::Exchange, None) => return Err(Errno::NotFound),
            _ => {}
        }
        if self.chain(to.0).contains(&source) {
            return Err(Errno::Invalid);
        }
        if let Some(target) = target
            && self.chain(from.0).contains(&target)
        {
            return Err(if mode == RenameMode::Exchange {
                Errno::Invalid
            } else {
                Errno::NotEmpty
            });
        }
        if target == Some(source) {
            return Ok(());
        }
        let exchange = mode == RenameMode::Exchange;
        if let Some(target) = target
            && !exchange
        {
            let (moved, replaced) = (&self.nodes[&source], &self.nodes[&target]);
            match (moved.is_directory(), replaced.is_directory()) {
                (true, false) => return Err(Errno::NotDirectory),
                (false, true) => return Err(Errno::IsDirectory),
                (true, true) if !replaced.entries.is_empty() => return Err(Errno::NotEmpty),
                _ => {}
            }
        }
        for id in [Some(source), target.filter(|_| exchange)].into_iter().flatten() {
            let several = !self.nodes[&id].is_directory() && self.links(id) > 1;
            if from.0 != to.0 && several && self.quota_directory(from.0) != self.quota_directory(to.0) {
                return Err(Errno::CrossDevice);
            }
        }
        self.nodes.get_mut(&from.0).unwrap().entries.remove(from.1);
        self.nodes
            .get_mut(&to.0)
            .unwrap()
            .entries
            .insert(to.1.clone(), source);
        if let Some(target) = target {
            if exchange {
                self.nodes
                    .get_mut(&from.0)
                    .unwrap()
                    .entries
                    .insert(from.1.clone(), target);
                self.move_name(target, to, from);
            } else {
                self.drop_name(target, to.0, to.1);
            }
        }
        self.move_name(source, from, to);
        Ok(())
    }

    fn file(&mut self, id: u64) -> Result<&mut Node, Errno> {
        let node = self.nodes.get_mut(&id).ok_or(Errno::Stale)?;
        match node.kind {
            FileType::Regular => Ok(node),
            FileType::Directory => Err(Errno::IsDirectory),
            _ => Err(Errno::Invalid),
        }
    }

    fn write(&mut self, id: u64, offset: usize, content: &[u8]) -> Answer {
        let node = self.file(id)?;
        node.fill(offset, content.iter().copied().map(Byte::Data));
        node.size = node.size.max(offset + content.len());
        Ok(())
    }

    fn truncate(&mut self, id: u64, size: usize) -> Answer {
        let node = self.file(id)?;
        if size < node.size {
            node.bytes.truncate(size);
        }
        node.size = size;
        Ok(())
    }

    fn allocate(&mut self, id: u64, offset: usize, length: usize, mode: AllocateMode) -> Answer {
        let node = self.file(id)?;
        let before: Vec<_> = (offset..offset + length)
            .map(|at| node.bytes.get(at).copied().unwrap_or(Byte::Hole))
            .collect();
        let keep_size = match mode {
            AllocateMode::Reserve { keep_size } => {
                let filled = before
                    .into_iter()
                    .map(|byte| if byte == Byte::Hole { Byte::Reserved } else { byte });
                node.fill(offset, filled);
                keep_size
            }
            AllocateMode::PunchHole => {
                node.fill(offset, before.into_iter().map(|_| Byte::Hole));
                true
            }
            AllocateMode::Zero { keep_size } => {
                node.fill(offset, before.into_iter().map(|_| Byte::Reserved));
                keep_size
            }
        };
        if !keep_size {
            node.size = node.size.max(offset + length);
        }
        Ok(())
    }

    fn copy(&mut self, from: (u64, usize), to: (u64, usize), length: usize) -> Answer {
        let source = self.nodes.get(&from.0).ok_or(Errno::Stale)?.clone();
        self.nodes.get(&to.0).ok_or(Errno::Stale)?;
        self.file(from.0)?;
        self.file(to.0)?;
        if from.0 == to.0 && from.1 < to.1 + length && to.1 < from.1 + length {
            return Err(Errno::Invalid);
        }
        let end = source.size.min(from.1 + length);
        if end <= from.1 {
            return Ok(());
        }
        let bytes: Vec<_> = (from.1..end)
            .map(|at| match source.bytes.get(at) {
                Some(Byte::Data(byte)) => Byte::Data(*byte),
                _ => Byte::Hole,
            })
            .collect();
        let node = self.file(to.0)?;
        node.size = node.size.max(to.1 + bytes.len());
        node.fill(to.1, bytes);
        Ok(())
    }

    fn seek(&self, id: u64, offset: usize, data: bool) -> Result<u64, Errno> {
        let node = self.nodes.get(&id).ok_or(Errno::Stale)?;
        match node.kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::IsDirectory),
            _ => return Err(Errno::Invalid),
        }
        if offset >= node.size {
            return Err(Errno::NoData);
        }
        let is_data = |at: &usize| matches!(node.bytes.get(*at), Some(Byte::Data(_)));
        let found = (offset..node.size).find(|at| is_data(at) == data);
        match found {
            Some(at) => Ok(at as u64),
            None if data => Err(Errno::NoData),
            None => Ok(node.size as u64),
        }
    }

    fn restore(&mut self, id: u64) -> Answer {
        let (parent, name) = self
            .nodes
            .get(&id)
            .and_then(|node| node.removed_from.clone())
            .ok_or(Errno::NotFound)?;
        if self.directory(parent)?.entries.contains_key(&name) {
            return Err(Errno::Exists);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        node.removed_from = None;
        node.first = Some((parent, name.clone()));
        self.nodes.get_mut(&parent).unwrap().entries.insert(name, id);
        Ok(())
    }

    /// Applies a change, unless it grows something beyond its limits.
    fn limited(&mut self, change: impl FnOnce(&mut Self) -> Answer) -> Answer {
        let mut next = self.clone();
        next.ignored.clear();
        change(&mut next)?;
        for (directory, (limit_bytes, limit_inodes)) in &self.quotas {
            let alive = |model: &Self| *directory == ROOT.0 || model.parent(*directory).is_some();
            if !alive(self) || !alive(&next) {
                continue;
            }
            let (before, after) = (self.usage(*directory), next.usage(*directory));
            let ignored = next.ignored.get(directory).copied().unwrap_or_default();
            let beyond =
                |grown: bool, used: i64, limit: Option<i64>| grown && limit.is_some_and(|limit| used > limit);
            if beyond(after.0 - before.0 - ignored.0 > 0, after.0, *limit_bytes)
                || beyond(after.1 - before.1 - ignored.1 > 0, after.1, *limit_inodes)
            {
                let errno = if *directory == ROOT.0 {
                    Errno::NoSpace
                } else {
                    Errno::QuotaExceeded
                };
                return Err(errno);
            }
        }
        *self = next;
        Ok(())
    }
}

/// Raw numbers, from which a step picks what it does to what there is.
type Raw = (u8, u16, u16, u16, u16);

struct Run {
    world: World,
    model: Model,
    /// Every number that was ever used, so that steps also pick what is gone.
    known: Vec<u64>,
    /// Where compaction goes on, and what it has read and not exchanged yet.
    cursor: Option<Cursor>,
    rewriting: Option<Rewriting>,
}

const LENGTHS: u16 = 40;

impl Run {
    fn new(trash: bool) -> Self {
        let world = if trash { World::with_trash() } else { World::new() };
        Self {
            world,
            model: Model::new(trash),
            known: vec![ROOT.0],
            cursor: None,
            rewriting: None,
        }
    }

    fn pick(&self, raw: u16) -> u64 {
        self.known[usize::from(raw) % self.known.len()]
    }

    /// Mostly something that works.
    fn pick_where(&self, raw: u16, kind: FileType) -> u64 {
        let fitting: Vec<_> = (self.known.iter().copied())
            .filter(|id| self.model.nodes.get(id).is_some_and(|node| node.kind == kind))
            .collect();
        if raw.is_multiple_of(16) || fitting.is_empty() {
            self.pick(raw / 16)
        } else {
            fitting[usize::from(raw) % fitting.len()]
        }
    }

    fn directory(&self, raw: u16) -> u64 {
        self.pick_where(raw, FileType::Directory)
    }

    fn file(&self, raw: u16) -> u64 {
        self.pick_where(raw, FileType::Regular)
    }

    fn name(raw: u16) -> FileName {
        name(["a", "b", "c"][usize::from(raw) % 3])
    }

    fn make(&mut self, kind: FileType, a: u16, b: u16) -> (Result<Reply, Errno>, Answer) {
        let (parent, name) = (self.directory(a), Self::name(b));
        let inode = self.world.new_inode();
        let new = NewInode {
            inode,
            mode: 0o755,
            umask: 0,
        };
        let parent_inode = InodeNumber(parent);
        let operation = match kind {
            FileType::Directory => Operation::MakeDirectory {
                parent: parent_inode,
                name: name.clone(),
                new,
            },
            FileType::SymbolicLink => Operation::SymbolicLink {
                parent: parent_inode,
                name: name.clone(),
                inode,
                target: Bytes::from_static(b"somewhere"),
            },
            _ => {
                let (name, device) = (name.clone(), 0);
                Operation::MakeNode {
                    parent: parent_inode,
                    name,
                    new,
                    kind,
                    device,
                }
            }
        };
        let result = self.world.run(&operation);
        let expected = self
            .model
            .limited(|model| model.make(parent, &name, inode.0, kind));
        self.known.push(inode.0);
        (result, expected)
    }

    fn commit(&mut self, (_, a, b, c, d): Raw) -> (Result<Reply, Errno>, Answer) {
        let (id, offset) = (self.file(a), usize::from(b % 100));
        let content: Vec<u8> = (0..=c % LENGTHS).map(|at| at.wrapping_add(d) as u8 | 1).collect();
        let result = if d.is_multiple_of(2) {
            self.world.write_inline(InodeNumber(id), offset as u64, &content)
        } else {
            let present =
                [Sides::only(Side::Primary), Sides::only(Side::Target), Sides::BOTH][usize::from(d) % 3];
            let stored = self
                .world
                .write_object(InodeNumber(id), offset as u64, &content, present);
            stored.map(|_| Reply::Done)
        };
        (
            result,
            self.model.limited(|model| model.write(id, offset, &content)),
        )
    }

    fn pack(&mut self) -> (Result<Reply, Errno>, Answer) {
        let listed = self
            .world
            .run(&Operation::ListInline { limit_bytes: 60 })
            .unwrap();
        let Reply::InlineExtents(extents) = listed else {
            panic!("{listed:?}")
        };
        let mut content = Vec::new();
        let mut offsets = Vec::new();
        for (_, extent) in &extents {
            let ExtentSource::Inline(bytes) = &extent.source else {
                panic!("{extent:?}")
            };
            offsets.push(content.len() as u64);
            content.extend_from_slice(bytes);
        }
        if content.is_empty() {
            return (Ok(Reply::Done), Ok(()));
        }
        let new = self.world.new_object(&content, Sides::only(Side::Primary));
        let exchanges = (extents.into_iter().zip(offsets))
            .map(|((inode, old), object_offset)| {
                let new = ExtentSource::Object {
                    object: new.object,
                    object_offset,
                    present: new.present,
                };
                ExtentExchange { inode, old, new }
            })
            .collect();
        (
            self.world.run(&Operation::Repoint {
                objects: vec![new],
                exchanges,
            }),
            Ok(()),
        )
    }

    /// One half of a compaction: reads what is to be rewritten, or exchanges what was read some steps ago.
    fn compact(&mut self) -> (Result<Reply, Errno>, Answer) {
        if let Some(rewriting) = self.rewriting.take() {
            return (self.world.rewrite(rewriting), Ok(()));
        }
        let cursor = self.cursor.take().unwrap_or(Cursor::START);
        let found = find(&self.world.view, cursor, limits(5)).unwrap();
        self.cursor = found.next;
        self.rewriting = Some(self.world.read_for_compaction(found.extents));
        (Ok(Reply::Done), Ok(()))
    }

    fn replicate(&mut self, limit: usize) -> (Result<Reply, Errno>, Answer) {
        let mut reports = Vec::new();
        let tick = self.world.now.seconds.unsigned_abs() % 7;
        for side in Side::BOTH {
            let outcome = TaskOutcome::Done;
            for copy in outbox::pending(&self.world.view, side, None, limit).unwrap() {
                assert!(
                    self.world.store.contains_key(&copy.object),
                    "a copy is owed of what is deleted"
                );
                // Now and then a worker finds the source missing: the copy is set aside, and stays owed.
                let missing = copy.object.number % 7 == tick;
                let outcome = if missing {
                    TaskOutcome::SourceMissing
                } else {
                    outcome.clone()
                };
                reports.push(CopyReport {
                    object: copy.object,
                    side,
                    deletion: false,
                    outcome,
                });
            }
            for object in outbox::pending_deletions(&self.world.view, side, limit).unwrap() {
                // Whatever still reads it will not find it: that is what the comparison of contents proves.
                self.world.store.remove(&object);
                reports.push(CopyReport {
                    object,
                    side,
                    deletion: true,
                    outcome: outcome.clone(),
                });
            }
        }
        (self.world.run(&Operation::ReportCopies { reports }), Ok(()))
    }

    #[allow(clippy::too_many_lines)] // A table: one arm for each kind of step.
    fn step(&mut self, raw: Raw) {
        let (kind, a, b, c, d) = raw;
        let (result, expected) = match kind % 21 {
            0 | 1 => self.make(FileType::Regular, a, b),
            2 => self.make(FileType::Directory, a, b),
            3 => self.make(
                if c.is_multiple_of(2) {
                    FileType::Fifo
                } else {
                    FileType::SymbolicLink
                },
                a,
                b,
            ),
            4 | 5 => {
                let (parent, name, directory) = (self.directory(a), Self::name(b), kind % 21 == 5);
                let (inode, text) = (InodeNumber(parent), name.to_string());
                let result = if directory {
                    self.world.rmdir(inode, &text)
                } else {
                    self.world.unlink(inode, &text)
                };
                (
                    result,
                    self.model.limited(|model| model.remove(parent, &name, directory)),
                )
            }
            6 | 7 => {
                let (from, to) = (
                    (self.directory(a), Self::name(b)),
                    (self.directory(c), Self::name(d)),
                );
                let modes = [
                    RenameMode::Replace,
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ];
                let mode = modes[usize::from(b / 3) % 4];
                let (name, new_name) = (from.1.clone(), to.1.clone());
                let (parent, new_parent) = (InodeNumber(from.0), InodeNumber(to.0));
                let result = self.world.run(&Operation::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode,
                });
                (
                    result,
                    self.model
                        .limited(|model| model.rename((from.0, &from.1), (to.0, &to.1), mode)),
                )
            }
            8 => {
                let (id, parent, name) = (self.file(a), self.directory(b), Self::name(c));
                let result = self
                    .world
                    .link(InodeNumber(id), InodeNumber(parent), &name.to_string());
                (
                    result.map(Reply::Entry),
                    self.model.limited(|model| model.link(id, parent, &name)),
                )
            }
            9..=11 => self.commit(raw),
            12 => {
                let (id, size) = (self.file(a), usize::from(b % 120));
                let result = self.world.truncate(InodeNumber(id), size as u64);
                (
                    result.map(Reply::Attributes),
                    self.model.limited(|model| model.truncate(id, size)),
                )
            }
            13 => {
                let (id, offset, length) = (self.file(a), usize::from(b % 100), usize::from(c % LENGTHS) + 1);
                let keep_size = d.is_multiple_of(2);
                let modes = [
                    AllocateMode::Reserve { keep_size },
                    AllocateMode::PunchHole,
                    AllocateMode::Zero { keep_size },
                ];
                let mode = modes[usize::from(d / 2) % 3];
                let (inode, from) = (InodeNumber(id), offset as u64);
                let operation = Operation::Allocate {
                    inode,
                    offset: from,
                    length: length as u64,
                    mode,
                };
                let result = self.world.run(&operation);
                (
                    result,
                    self.model
                        .limited(|model| model.allocate(id, offset, length, mode)),
                )
            }
            14 => {
                let (from, to) = (
                    (self.file(a), usize::from(c % 80)),
                    (self.file(b), usize::from(d % 80)),
                );
                let length = usize::from((c ^ d) % 60) + 1;
                let result = self.world.run(&Operation::CopyRange {
                    source: InodeNumber(from.0),
                    source_offset: from.1 as u64,
                    destination: InodeNumber(to.0),
                    destination_offset: to.1 as u64,
                    length: length as u64,
                });
                (result, self.model.limited(|model| model.copy(from, to, length)))
            }
            15 => {
                let (id, offset, data) = (self.file(a), usize::from(b % 100), c.is_multiple_of(2));
                let target = if data { SeekTarget::Data } else { SeekTarget::Hole };
                let (inode, from) = (InodeNumber(id), offset as u64);
                let result = self.world.run(&Operation::Seek {
                    inode,
                    offset: from,
                    target,
                });
                let expected = self.model.seek(id, offset, data);
                if let (Ok(Reply::Offset(found)), Ok(expected)) = (&result, &expected) {
                    assert_eq!(found, expected);
                }
                (result, expected.map(|_found| ()))
            }
            16 => {
                let directory = self.directory(a);
                let (bytes, inodes) = (
                    (b % 3 > 0).then_some(u64::from(b % 300)),
                    (c % 3 > 0).then_some(u64::from(c % 12)),
                );
                let inode = InodeNumber(directory);
                let operation = Operation::SetQuota {
                    directory: inode,
                    limit_bytes: bytes,
                    limit_inodes: inodes,
                };
                let result = self.world.run(&operation);
                let expected = self.model.directory(directory).map(|_| ());
                if expected.is_ok() {
                    self.model.quotas.remove(&directory);
                    if bytes.is_some() || inodes.is_some() {
                        let signed = |limit: Option<u64>| limit.map(u64::cast_signed);
                        self.model
                            .quotas
                            .insert(directory, (signed(bytes), signed(inodes)));
                    }
                }
                (result, expected)
            }
            17 => self.pack(),
            18 => self.replicate(usize::from(a % 4) + 1),
            19 => self.compact(),
            _ if self.model.trash && b.is_multiple_of(2) => {
                let trashed: Vec<_> = (self.model.nodes.iter())
                    .filter(|(_, node)| node.removed_from.is_some())
                    .map(|(id, _)| *id)
                    .collect();
                let id = if trashed.is_empty() {
                    self.pick(a)
                } else {
                    trashed[usize::from(a) % trashed.len()]
                };
                let result = self.world.run(&Operation::RestoreTrash {
                    inode: InodeNumber(id),
                    to: None,
                });
                (result, self.model.limited(|model| model.restore(id)))
            }
            _ => {
                self.world.now = self.world.now.plus_seconds(i64::from(c % 400));
                let limit = usize::from(a % 5) + 1;
                (
                    self.world.maintain(&Maintenance::CleanUp {
                        limit,
                        archived: Position(u64::MAX),
                    }),
                    Ok(()),
                )
            }
        };
        assert_eq!(
            result.as_ref().map(|_| ()),
            expected.as_ref().copied(),
            "step {raw:?} answered {result:?}"
        );
        // What has neither a name nor a place in the trash, and is not open, is gone.
        self.model
            .nodes
            .retain(|id, node| *id == ROOT.0 || node.first.is_some() || node.removed_from.is_some());
        self.model
            .quotas
            .retain(|id, _| self.model.nodes.contains_key(id));
    }

    fn compare(&mut self) {
        for (id, node) in self.model.nodes.clone() {
            let attributes = self.world.stat(InodeNumber(id));
            assert_eq!(attributes.kind, node.kind);
            assert_eq!(attributes.links as usize, self.model.links(id), "links of {id}");
            assert_eq!(
                attributes.allocated_bytes.cast_signed(),
                node.allocated(),
                "allocated by {id}"
            );
            if node.is_directory() && self.model.links(id) > 0 {
                let (bytes, inodes) = self.world.usage(InodeNumber(id));
                assert_eq!(
                    (bytes.cast_signed(), inodes.cast_signed()),
                    self.model.usage(id),
                    "usage of {id}"
                );
                let listed = self.world.list(InodeNumber(id), 2);
                let names: BTreeMap<_, _> = listed
                    .into_iter()
                    .map(|(name, (inode, _))| (name, inode.0))
                    .collect();
                assert_eq!(names, node.entries);
            } else if node.kind == FileType::Regular {
                assert_eq!(
                    self.world.content(InodeNumber(id)),
                    node.content(),
                    "content of {id}"
                );
            }
        }
        // Every watermark is below what is still owed.
        let tail = self.world.position();
        for side in Side::BOTH {
            let watermark = outbox::watermark(&self.world.view, side, tail).unwrap();
            for copy in outbox::pending(&self.world.view, side, None, 1000).unwrap() {
                assert!(watermark < copy.position);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Raw>> {
    prop::collection::vec(any::<Raw>(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_do_what_a_naive_file_system_does(trash: bool, steps in steps()) {
        let mut run = Run::new(trash);
        for raw in steps {
            run.step(raw);
            run.compare();
        }
    }

    #[test]
    fn in_the_end_both_buckets_hold_exactly_what_is_live(steps in steps()) {
        let mut run = Run::new(false);
        for raw in steps {
            run.step(raw);
        }
        for _ in 0..50 {
            run.pack().0.unwrap();
            run.world.now = run.world.now.plus_seconds(outbox::QUARANTINE_SECONDS);
            run.world.clean_up(7);
            run.replicate(100).0.unwrap();
            run.compact().0.unwrap();
        }
        run.compare();
        let tail = run.world.position();
        let Reply::Objects(objects) = run.world.run(&Operation::ListObjects { after: None, limit: 10_000 }).unwrap() else {
            panic!()
        };
        for object in &objects {
            assert_eq!(object.present, Sides::BOTH);
            assert!(object.live_bytes > 0);
            assert!(object.live_bytes * 2 > object.content_bytes, "nothing sparse is left: {object:?}");
        }
        // What the buckets still hold beyond that was stored for commits that failed: metadata never knew it.
        assert!(objects.iter().all(|object| run.world.store.contains_key(&object.object)));
        for side in Side::BOTH {
            assert_eq!(outbox::watermark(&run.world.view, side, tail).unwrap(), tail);
            assert_eq!(outbox::totals(&run.world.view, side).unwrap(), outbox::Totals::default());
        }
    }
}
