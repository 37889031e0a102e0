//! What has been written to one inode and is not committed yet. Pure: time is an argument.
//!
//! # States of a byte
//!
//! 1. *Open*: in a range of `open`, where further writes join it.
//! 2. *Waiting*: sealed in a [`Piece`]: immutable, with a place in the order of writing.
//! 3. *Uploading*, then *stored*: in an object.
//! 4. Gone: committed, or given up with an error. Then the extents tell what is there.
//!
//! # Invariants
//!
//! * Open ranges do not overlap. They are younger than every piece; a piece is younger than those before it.
//! * Pieces are committed from the front, so an older write never lands on top of a younger one.
//! * `bytes` is the sum of all lengths: what the buffer budget is charged for.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_protocol::operation::{FileWrite, NewObject};
use twinshore_protocol::{ExtentSource, Timestamp};
use twinshore_storage::buffer::Buffer;

/// Random writes make at most this many open ranges; then they are written out.
pub const OPEN_RANGES_MAX: usize = 1024;

/// Writes in one commit at most: the message stays far below its limit.
const COMMIT_WRITES_MAX: usize = 2048;

/// Where the bytes of a piece are besides in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Waiting,
    /// On their way.
    Uploading,
    /// In an object, from this offset of its content.
    Stored(NewObject, u64),
}

/// Sealed bytes.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its place in the order of writing.
    pub sequence: u64,
    /// Where it begins in the file.
    pub file_offset: u64,
    /// The bytes.
    pub content: Bytes,
    /// The last write before it was sealed, as [`Dirty::last_write`] was then.
    pub last_write: u64,
    /// Where else they are.
    pub place: Place,
}

impl Piece {
    fn end(&self) -> u64 {
        self.file_offset + self.content.len() as u64
    }
}

/// What one commit names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitPlan {
    /// Objects named for the first time.
    pub objects: Vec<NewObject>,
    /// The writes, in order.
    pub writes: Vec<FileWrite>,
    /// For each, the last write that its piece holds.
    pub bounds: Vec<u64>,
    /// It settles every piece before this sequence.
    pub until: u64,
}

/// What has to be done next to write pieces out.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing is left.
    Done,
    /// So little is left that it is committed inline.
    Inline(CommitPlan),
    /// So little that it shares an object with other files: the pieces before the sequence.
    Pack(Vec<Piece>, u64),
    /// These are to be uploaded, each group as one object. They count as uploading from now on.
    Upload(Vec<Vec<Piece>>),
    /// These are stored and can be committed.
    Commit(CommitPlan),
    /// Uploads are under way.
    Wait,
}

/// Sizes that decide how bytes are stored.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // The postfix is the unit.
pub struct Sizes {
    /// A file's pieces of at most so many bytes together are committed inline.
    pub inline_limit_bytes: u64,
    /// Below this they share an object with other files'.
    pub pack_limit_bytes: u64,
    /// The content of one object.
    pub object_bytes: u64,
}

/// Room for an open range that grows to so much: what goes on to the size of an object in writes of a MiB moves once.
fn room_for(length: usize, object_bytes: u64) -> usize {
    (length * 2).min(index(object_bytes)).max(length)
}

/// The unwritten data of an inode.
#[derive(Debug)]
pub struct Dirty {
    open: BTreeMap<u64, Buffer>,
    pieces: VecDeque<Piece>,
    next_sequence: u64,
    bytes: u64,
    /// When the last write was made, in file-system time.
    pub modified: Timestamp,
    /// Somebody else than root wrote.
    pub clear_privileges: bool,
    /// The number of the last write, where writes are numbered.
    pub last_write: u64,
    /// The same when something was sealed last.
    pub last_sealed: u64,
    /// When the oldest uncommitted write was made.
    pub first_written: Instant,
    /// When the last one was made.
    pub last_written: Instant,
}

impl Dirty {
    /// Nothing yet.
    pub fn new(now: Instant) -> Self {
        Self {
            open: BTreeMap::new(),
            pieces: VecDeque::new(),
            next_sequence: 0,
            bytes: 0,
            modified: Timestamp::default(),
            clear_privileges: false,
            last_write: 0,
            last_sealed: 0,
            first_written: now,
            last_written: now,
        }
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.pieces.is_empty()
    }

    /// How many bytes are held.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sequence that the next piece will have.
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// How many open ranges there are.
    pub fn open_ranges(&self) -> usize {
        self.open.len()
    }

    /// The file offset after the last byte, or 0.
    pub fn end(&self) -> u64 {
        let open = self
            .open
            .last_key_value()
            .map_or(0, |(start, bytes)| start + bytes.len() as u64);
        self.pieces.iter().map(Piece::end).max().unwrap_or(0).max(open)
    }

    /// Copies bytes in. Whatever has grown to the size of an object is sealed; returns whether something was.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        object_bytes: u64,
        now: Instant,
        time: Timestamp,
    ) -> bool {
        if data.is_empty() {
            return false;
        }
        if self.is_empty() {
            self.first_written = now;
        }
        self.last_written = now;
        self.modified = time;
        let start = self.copy_in(offset, data, object_bytes);
        self.seal_full(start, object_bytes)
    }

    /// Returns the start of the range that the bytes are in.
    fn copy_in(&mut self, offset: u64, data: &[u8], object_bytes: u64) -> u64 {
        let end = offset + data.len() as u64;
        let mut joined = None;
        if let Some((&before, bytes)) = self.open.range_mut(..=offset).next_back() {
            let skip = index(offset - before);
            if skip <= bytes.len() {
                if skip + data.len() <= bytes.len() {
                    bytes[skip..skip + data.len()].copy_from_slice(data);
                    return before;
                }
                self.bytes -= (bytes.len() - skip) as u64;
                bytes.truncate(skip);
                let needed = skip + data.len();
                if needed > bytes.capacity() {
                    bytes.grow_to(room_for(needed, object_bytes));
                }
                bytes.extend_from_slice(data);
                self.bytes += data.len() as u64;
                joined = Some(before);
            }
        }
        let start = joined.unwrap_or_else(|| {
            self.open.insert(offset, Buffer::copy_from(data));
            self.bytes += data.len() as u64;
            offset
        });
        // The ranges that the new bytes cover: the last of them may reach beyond.
        while let Some((&next, _)) = self.open.range(start + 1..end).next() {
            let Some(bytes) = self.open.remove(&next) else {
                break;
            };
            self.bytes -= bytes.len() as u64;
            let covered = index(end - next);
            if covered < bytes.len() {
                let rest = Buffer::copy_from(&bytes[covered..]);
                self.bytes += rest.len() as u64;
                self.open.insert(end, rest);
            }
        }
        start
    }

    fn seal_full(&mut self, start: u64, object_bytes: u64) -> bool {
        let mut start = start;
        let mut sealed = false;
        while self
            .open
            .get(&start)
            .is_some_and(|bytes| bytes.len() as u64 >= object_bytes)
        {
            let Some(mut bytes) = self.open.remove(&start) else {
                break;
            };
            let rest = Buffer::copy_from(&bytes[index(object_bytes)..]);
            bytes.truncate(index(object_bytes));
            self.seal(start, bytes);
            sealed = true;
            start += object_bytes;
            if !rest.is_empty() {
                self.open.insert(start, rest);
            }
        }
        sealed
    }

    fn seal(&mut self, file_offset: u64, mut bytes: Buffer) {
        // Room that was made for more is given back: memory is counted by length.
        if bytes.capacity() - bytes.len() > bytes.len() / 2 {
            bytes = Buffer::copy_from(&bytes);
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.last_sealed = self.last_write;
        self.pieces.push_back(Piece {
            sequence,
            file_offset,
            content: bytes.freeze(),
            last_write: self.last_write,
            place: Place::Waiting,
        });
    }

    /// Seals everything.
    pub fn seal_all(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.open) {
            self.seal(offset, bytes);
        }
    }

    /// The bytes within a range, oldest first: whoever copies them in this order ends with the youngest.
    pub fn overlay(&self, start: u64, end: u64) -> Vec<(u64, Bytes)> {
        let mut found = Vec::new();
        for piece in &self.pieces {
            let (from, to) = (piece.file_offset.max(start), piece.end().min(end));
            if from < to {
                let range = index(from - piece.file_offset)..index(to - piece.file_offset);
                found.push((from, piece.content.slice(range)));
            }
        }
        let first = self
            .open
            .range(..=start)
            .next_back()
            .map_or(start, |(offset, _)| *offset);
        for (&offset, bytes) in self.open.range(first..end) {
            let (from, to) = (offset.max(start), (offset + bytes.len() as u64).min(end));
            if from < to {
                found.push((
                    from,
                    Bytes::copy_from_slice(&bytes[index(from - offset)..index(to - offset)]),
                ));
            }
        }
        found
    }

    /// The file is cut: what lies beyond is no longer to be written.
    pub fn truncate(&mut self, size: u64) {
        let beyond = self.open.split_off(&size);
        self.bytes -= beyond.values().map(|bytes| bytes.len() as u64).sum::<u64>();
        if let Some((offset, bytes)) = self.open.iter_mut().next_back() {
            let keep = index(size - offset);
            if keep < bytes.len() {
                self.bytes -= (bytes.len() - keep) as u64;
                bytes.truncate(keep);
            }
        }
        for piece in &mut self.pieces {
            let keep = piece
                .content
                .len()
                .min(index(size.saturating_sub(piece.file_offset)));
            self.bytes -= (piece.content.len() - keep) as u64;
            piece.content.truncate(keep);
        }
        // An object whose bytes nobody wants any more is never named. The full synchronisation removes it.
        self.pieces.retain(|piece| !piece.content.is_empty());
    }

    /// What to do next with the pieces before `target`. Pieces that are to be uploaded or packed become `Uploading`.
    pub fn next_step(&mut self, target: u64, sizes: Sizes) -> Step {
        let count = self
            .pieces
            .iter()
            .take_while(|piece| piece.sequence < target)
            .count();
        if count == 0 {
            return Step::Done;
        }
        let waiting = |piece: &Piece| piece.place == Place::Waiting;
        if self.pieces.iter().take(count).all(waiting) {
            let total: u64 = self
                .pieces
                .iter()
                .take(count)
                .map(|piece| piece.content.len() as u64)
                .sum();
            if total <= sizes.inline_limit_bytes {
                return Step::Inline(self.inline_plan(count));
            }
            if total < sizes.pack_limit_bytes {
                let mut packed = Vec::with_capacity(count);
                for piece in self.pieces.iter_mut().take(count) {
                    piece.place = Place::Uploading;
                    packed.push(piece.clone());
                }
                let until = packed.last().map_or(0, |piece| piece.sequence + 1);
                return Step::Pack(packed, until);
            }
        }
        let groups = self.start_uploads(target, sizes.object_bytes);
        if !groups.is_empty() {
            return Step::Upload(groups);
        }
        match self.stored_plan(target) {
            Some(plan) => Step::Commit(plan),
            None => Step::Wait,
        }
    }

    /// Takes the waiting pieces before `target`, in groups of neighbours that make an object each.
    pub fn start_uploads(&mut self, target: u64, object_bytes: u64) -> Vec<Vec<Piece>> {
        let mut groups: Vec<Vec<Piece>> = Vec::new();
        let mut room = 0;
        let mut follows = false;
        for piece in self.pieces.iter_mut().take_while(|piece| piece.sequence < target) {
            if piece.place != Place::Waiting {
                follows = false;
                continue;
            }
            piece.place = Place::Uploading;
            let length = piece.content.len() as u64;
            match groups.last_mut() {
                Some(group) if follows && length <= room => {
                    group.push(piece.clone());
                    room -= length;
                }
                _ => {
                    groups.push(vec![piece.clone()]);
                    room = object_bytes.saturating_sub(length);
                }
            }
            follows = true;
        }
        groups
    }

    /// An object holds the pieces of a group now, one after the other, from this offset.
    pub fn stored_from(&mut self, group: &[Piece], object: NewObject, mut object_offset: u64) {
        for uploaded in group {
            let now = self
                .pieces
                .iter_mut()
                .find(|piece| piece.sequence == uploaded.sequence);
            // It may be shorter by now, or gone.
            if let Some(piece) = now {
                piece.place = Place::Stored(object, object_offset);
            }
            object_offset += uploaded.content.len() as u64;
        }
    }

    fn inline_plan(&self, count: usize) -> CommitPlan {
        let mut plan = CommitPlan::default();
        for piece in self.pieces.iter().take(count) {
            plan.until = piece.sequence + 1;
            plan.bounds.push(piece.last_write);
            plan.writes.push(FileWrite {
                file_offset: piece.file_offset,
                length: piece.content.len() as u64,
                source: ExtentSource::Inline(piece.content.clone()),
            });
        }
        plan
    }

    /// The stored pieces at the front.
    pub fn stored_plan(&self, target: u64) -> Option<CommitPlan> {
        let mut plan = CommitPlan::default();
        for piece in self.pieces.iter().take_while(|piece| piece.sequence < target) {
            let Place::Stored(object, object_offset) = piece.place else {
                break;
            };
            let known = plan
                .objects
                .last()
                .is_some_and(|last| last.object == object.object);
            // The pieces of one object stay in one commit: an object is named for the first time only once.
            if !known && plan.writes.len() >= COMMIT_WRITES_MAX {
                break;
            }
            if !known {
                plan.objects.push(object);
            }
            plan.until = piece.sequence + 1;
            plan.bounds.push(piece.last_write);
            plan.writes.push(FileWrite {
                file_offset: piece.file_offset,
                length: piece.content.len() as u64,
                source: ExtentSource::Object {
                    object: object.object,
                    object_offset,
                    present: object.present,
                },
            });
        }
        (!plan.writes.is_empty()).then_some(plan)
    }

    /// These writes are committed: the pieces at the front that they were made of are settled. What a commit of unknown
    /// outcome held was given up long ago, and is found no more when its reply comes late.
    pub fn settle_written(&mut self, writes: &[FileWrite]) {
        for write in writes {
            let Some(piece) = self.pieces.front() else { return };
            let same = match (&write.source, piece.place) {
                (ExtentSource::Inline(bytes), _) => bytes.as_ptr() == piece.content.as_ptr(),
                (
                    ExtentSource::Object {
                        object,
                        object_offset,
                        ..
                    },
                    Place::Stored(stored, stored_offset),
                ) => *object == stored.object && *object_offset == stored_offset,
                _ => false,
            };
            if same && write.file_offset == piece.file_offset {
                self.settle(piece.sequence + 1);
            }
        }
    }

    /// The pieces before a sequence are settled. Returns how many that were.
    pub fn settle(&mut self, until: u64) -> usize {
        let mut settled = 0;
        while self.pieces.front().is_some_and(|piece| piece.sequence < until) {
            if let Some(piece) = self.pieces.pop_front() {
                self.bytes -= piece.content.len() as u64;
                settled += 1;
            }
        }
        settled
    }

    /// Gives single pieces up. Returns how many there were.
    pub fn give_up(&mut self, group: &[Piece]) -> usize {
        let before = self.pieces.len();
        let bytes = &mut self.bytes;
        self.pieces.retain(|piece| {
            let keep = !group.iter().any(|lost| lost.sequence == piece.sequence);
            if !keep {
                *bytes -= piece.content.len() as u64;
            }
            keep
        });
        before - self.pieces.len()
    }

    /// Gives everything up. Returns whether there was anything.
    pub fn clear(&mut self) -> bool {
        let had = !self.is_empty();
        self.open.clear();
        self.pieces.clear();
        self.bytes = 0;
        had
    }
}

/// A length in memory. Buffers are far smaller than any address space.
fn index(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
