//! Copies of whole trees: clones of claims, snapshots, and what is restored from them. Only metadata is copied: extents name the same objects.
//!
//! # Flow
//!
//! 1. [`Transaction::begin_copy`] makes the root of the copy among the hidden directories, with a row in `j`.
//! 2. [`Transaction::copy_on`] copies a piece of bounded size: in the operation that asked, then in the background ([`super::Maintenance::CopyOn`]) until
//!    it is complete. A directory of the source that has yet to be read has a row in `k`; a file with several names, once it is copied, one in `l`.
//! 3. The copy gets its place: a claim's directory its name, in one step. Or it fails, and what there is of it is taken apart.
//!
//! # One moment
//!
//! From the record that begins a copy of a directory with a name to the one that ends it, nothing in that directory is changed: the service has everything
//! wait that would ([`crate::service`], `state/frozen.rs`). A copy that is done within the record that begins it holds nobody up. What clients have not
//! sent yet is not in it, as after a crash. A snapshot is changed by nobody, so copying from one holds nobody up.
//!
//! # Invariants
//!
//! * A copy under way has a row in `j`, and its goal (a row in `d` or `s`) says that it is copying; else it does not.
//! * What becomes of limits is decided when it begins: its pieces are beyond none. (What grows beside it may be refused sooner.)

use std::fmt::Display;

use twinshore_protocol::claims::Refused;
use twinshore_protocol::{FileName, FileType, InodeNumber, Reply};

use super::CoreError;
use super::claims::rows::{
    ClaimedRow, CopyDirectory, CopyFile, CopyGoal, CopyPhase, CopyRow, CopyState, SnapshotRow,
};
use super::extents::Placed;
use super::keys::{self, KeyReader};
use super::names::{ENTRY_BYTES, entry_key};
use super::transaction::{Attempt, Failure, Transaction, corrupt, decode, read};
use super::trees::hidden_name;
use super::usage::{Change, Limits};
use super::values::{BytesRow, EntryRow, InodeRow, Place, QuotaRow, SourceRow, UsageRow};
use crate::view::View;

/// Inodes of a directory in use that are copied at one moment, at most. At about 20 microseconds each, writers in it wait for
/// 10 seconds: the time that the leases of a lost mount make others wait anyway.
pub const LIVE_INODES_MAX: u64 = 500_000;

/// What one piece costs, at most: about a millisecond for every fifty, and half a kilobyte of the record for each.
const PIECE_COST: usize = 1024;

/// Bytes that cost as much as an inode.
const BYTES_PER_COST: usize = 512;

/// Extents, or entries, that are read at a time.
const PAGE: usize = 128;

/// A copy under way, as the service has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyUnderWay {
    /// The root of the copy.
    pub copy: InodeNumber,
    /// The directory that nobody may change; `None` if nobody can.
    pub frozen: Option<InodeNumber>,
}

/// The copies under way.
pub fn under_way(view: &dyn View) -> Result<Vec<CopyUnderWay>, CoreError> {
    let mut copies = Vec::new();
    for (key, value) in view.scan(&[keys::COPY], &[keys::COPY + 1], usize::MAX)? {
        let row: CopyRow = decode(&key, &value)?;
        let copy = copy_of(&key)?;
        let frozen = (row.live && row.phase == CopyPhase::Copying).then_some(row.source);
        copies.push(CopyUnderWay { copy, frozen });
    }
    Ok(copies)
}

/// Is an inode in the tree of one of these directories, by any of its names?
pub fn is_within_any(view: &dyn View, inode: InodeNumber, trees: &[InodeNumber]) -> Result<bool, CoreError> {
    let Some(row) = read::<InodeRow>(view, &keys::inode(inode))? else {
        return Ok(false);
    };
    let Place::Named { parent } = row.place else {
        return Ok(false);
    };
    let mut holders = vec![if row.is_directory() { inode } else { parent }];
    if !row.is_directory() && row.attributes.links > 1 {
        let prefix = keys::of(keys::OTHER_NAME, inode.0);
        for (key, _) in view.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX)? {
            let mut reader = KeyReader::new(&key);
            let (Some(_), Some(holder)) = (reader.inode(), reader.inode()) else {
                return Err(corrupt(&key, "malformed key"));
            };
            holders.push(holder);
        }
        holders.sort_unstable();
        holders.dedup();
    }
    for mut directory in holders {
        loop {
            if trees.contains(&directory) {
                return Ok(true);
            }
            match read::<UsageRow>(view, &keys::usage(directory))? {
                Some(usage) if usage.parent != directory => directory = usage.parent,
                _ => break,
            }
        }
    }
    Ok(false)
}

fn copy_of(key: &[u8]) -> Result<InodeNumber, CoreError> {
    KeyReader::new(key)
        .inode()
        .ok_or_else(|| corrupt(key, "malformed key"))
}

impl Transaction<'_> {
    fn copy_row(&self, copy: InodeNumber) -> Attempt<Option<CopyRow>> {
        self.get(&keys::copy(copy))
    }

    /// Begins a copy that is to be below a directory: tells the root of the copy.
    pub(super) fn begin_copy(
        &mut self,
        source: InodeNumber,
        live: bool,
        goal: CopyGoal,
        below: InodeNumber,
    ) -> Attempt<InodeNumber> {
        let usage = self.usage(source)?;
        if live && usage.inodes > LIVE_INODES_MAX {
            let (inodes, limit) = (usage.inodes, LIVE_INODES_MAX);
            return Err(Refused::TooManyInodes { inodes, limit }.into());
        }
        self.require_room(below, Change::plus(usage.bytes, usage.inodes + 1))?;
        let copies = self.hidden()?.copies;
        let copy = self.take_inode_number()?;
        let row = self.named_inode(source)?;
        self.put_copied_directory(&row, copy, copies)?;
        self.put_copied_entry(
            copies,
            &hidden_name(copy)?,
            EntryRow {
                inode: copy,
                kind: FileType::Directory,
            },
        )?;
        self.charge(copies, Change::plus(0, 1), Limits::Ignore)?;
        let row = CopyRow {
            source,
            live,
            goal,
            phase: CopyPhase::Copying,
            directory: Some(CopyDirectory {
                source,
                copy,
                after: None,
            }),
            file: None,
        };
        self.put(keys::copy(copy), &row);
        Ok(copy)
    }

    /// A piece of whichever copy is next. Tells how much was done; 0 if there is none.
    pub(super) fn copy_some(&mut self) -> Attempt<Reply> {
        let rows = self.scan(&[keys::COPY], &[keys::COPY + 1], PAGE)?;
        let mut next = None;
        for (key, value) in &rows {
            let row: CopyRow = decode(key, value)?;
            // Whom writers wait for comes first.
            let rank = match row.phase {
                CopyPhase::Copying => u8::from(!row.live),
                CopyPhase::Clearing => 2,
            };
            if next.is_none_or(|(best, _)| rank < best) {
                next = Some((rank, copy_of(key)?));
            }
        }
        match next {
            Some((_, copy)) => {
                self.copy_on(copy)?;
                Ok(Reply::Offset(1))
            }
            None => Ok(Reply::Offset(0)),
        }
    }

    /// A piece of a copy.
    pub(super) fn copy_on(&mut self, copy: InodeNumber) -> Attempt<()> {
        let Some(mut row) = self.copy_row(copy)? else {
            return Ok(());
        };
        let mut left = PIECE_COST;
        if row.phase == CopyPhase::Copying {
            while left > 0 {
                let cost = if let Some(file) = row.file {
                    self.copy_extents(&mut row, file, left)?
                } else if let Some(directory) = row.directory.clone() {
                    self.copy_entries(copy, &mut row, directory, left)?
                } else if let Some(next) = self.next_directory(copy)? {
                    row.directory = Some(next);
                    1
                } else {
                    self.put(keys::copy(copy), &row);
                    return self.complete_copy(copy, row);
                };
                left = left.saturating_sub(cost);
            }
            self.put(keys::copy(copy), &row);
            return Ok(());
        }
        self.clear_copy(copy, left)
    }

    /// Removes what only the copying needed, and the copy's row with the last of it.
    fn clear_copy(&mut self, copy: InodeNumber, limit: usize) -> Attempt<()> {
        let mut left = limit;
        for prefix in [keys::COPY_DIRECTORY, keys::COPY_LINK] {
            let rows = self.scan_prefix(&keys::of(prefix, copy.0), left)?;
            left -= rows.len();
            for (key, _) in rows {
                self.remove(key);
            }
            if left == 0 {
                return Ok(());
            }
        }
        self.remove(keys::copy(copy));
        Ok(())
    }

    fn next_directory(&mut self, copy: InodeNumber) -> Attempt<Option<CopyDirectory>> {
        let prefix = keys::of(keys::COPY_DIRECTORY, copy.0);
        let Some((key, value)) = self.scan_prefix(&prefix, 1)?.pop() else {
            return Ok(None);
        };
        let mut reader = KeyReader::new(&key);
        let (Some(_), Some(directory)) = (reader.inode(), reader.inode()) else {
            return Err(corrupt(&key, "malformed key").into());
        };
        let source: InodeNumber = decode(&key, &value)?;
        self.remove(key);
        Ok(Some(CopyDirectory {
            source,
            copy: directory,
            after: None,
        }))
    }

    /// Entries of a directory. Tells what they cost.
    fn copy_entries(
        &mut self,
        copy: InodeNumber,
        row: &mut CopyRow,
        directory: CopyDirectory,
        limit: usize,
    ) -> Attempt<usize> {
        let prefix = keys::of(keys::ENTRY, directory.source.0);
        let start = match &directory.after {
            Some(after) => keys::after(&entry_key(directory.source, after)),
            None => prefix.clone(),
        };
        let wanted = PAGE.min(limit);
        let page = self.scan(&start, &keys::after_prefix(&prefix), wanted)?;
        let is_last = page.len() < wanted;
        let mut entries = Vec::with_capacity(page.len());
        for (key, value) in page {
            let mut reader = KeyReader::new(&key);
            let (Some(_), Some(_), Some(name)) = (reader.inode(), reader.number(), reader.name()) else {
                return Err(corrupt(&key, "malformed key").into());
            };
            entries.push((name, decode::<EntryRow>(&key, &value)?));
        }
        self.read_inodes(entries.iter().map(|(_, entry)| entry.inode))?;
        let mut cost = 1;
        let mut after = directory.after;
        for (name, entry) in entries {
            if cost >= limit {
                row.directory = Some(CopyDirectory { after, ..directory });
                return Ok(cost);
            }
            cost += self.copy_inode(copy, row, directory.copy, &name, entry)?;
            after = Some(name);
            while let Some(file) = row.file {
                if cost >= limit {
                    row.directory = Some(CopyDirectory { after, ..directory });
                    return Ok(cost);
                }
                cost += self.copy_extents(row, file, limit - cost)?;
            }
        }
        row.directory = (!is_last).then_some(CopyDirectory { after, ..directory });
        Ok(cost)
    }

    /// An inode and its name. A file with extents is left for the next step.
    fn copy_inode(
        &mut self,
        copy: InodeNumber,
        job: &mut CopyRow,
        directory: InodeNumber,
        name: &FileName,
        entry: EntryRow,
    ) -> Attempt<usize> {
        let source = self.named_inode(entry.inode)?;
        let kind = entry.kind;
        let several = kind != FileType::Directory && source.attributes.links > 1;
        let link = keys::copy_link(copy, entry.inode);
        if several && let Some(known) = self.get::<InodeNumber>(&link)? {
            let mut row = self.named_inode(known)?;
            row.attributes.links += 1;
            self.put_inode(row);
            self.put_copied_entry(directory, name, EntryRow { inode: known, kind })?;
            self.mark(keys::other_name(known, directory, name));
            return Ok(1);
        }
        let inode = self.take_inode_number()?;
        let mut cost = 1;
        if kind == FileType::Directory {
            cost += self.put_copied_directory(&source, inode, directory)?;
            self.put(keys::copy_directory(copy, inode), &entry.inode);
        } else {
            cost += self.put_copied_inode(&source, inode, directory)?;
            if several {
                self.put(link, &inode);
            }
            if source.attributes.allocated_bytes > 0 {
                job.file = Some(CopyFile {
                    source: entry.inode,
                    copy: inode,
                    until: 0,
                });
            }
        }
        self.put_copied_entry(directory, name, EntryRow { inode, kind })?;
        self.charge(directory, Change::plus(0, 1), Limits::Ignore)?;
        Ok(cost)
    }

    /// A name in a directory of a copy: nobody caches it, and its times stay those of the source.
    fn put_copied_entry(&mut self, directory: InodeNumber, name: &FileName, entry: EntryRow) -> Attempt<()> {
        self.put(entry_key(directory, name), &entry);
        let mut row = self.named_inode(directory)?;
        row.attributes.size_bytes += ENTRY_BYTES;
        row.attributes.links += u32::from(entry.kind == FileType::Directory);
        self.put_inode(row);
        Ok(())
    }

    fn put_copied_directory(
        &mut self,
        source: &InodeRow,
        inode: InodeNumber,
        parent: InodeNumber,
    ) -> Attempt<usize> {
        let cost = self.put_copied_inode(source, inode, parent)?;
        // The limits of the root of a copy are the business of whom it is for.
        let quota = match self.copy_row(inode)? {
            None if self.usage(source.number())?.limited => {
                self.get::<QuotaRow>(&keys::quota(source.number()))?
            }
            _ => None,
        };
        self.set_usage(
            inode,
            Some(UsageRow {
                bytes: 0,
                inodes: 0,
                parent,
                limited: quota.is_some(),
                claimed: 0,
            }),
        )?;
        if let Some(quota) = quota {
            self.put(keys::quota(inode), &quota);
        }
        Ok(cost)
    }

    /// An inode without entries and extents.
    fn put_copied_inode(
        &mut self,
        source: &InodeRow,
        inode: InodeNumber,
        parent: InodeNumber,
    ) -> Attempt<usize> {
        let mut row = *source;
        row.attributes.inode = inode;
        row.attributes.allocated_bytes = 0;
        row.attributes.content_version = self.context.position;
        (row.extents, row.fragmented) = (0, false);
        row.place = Place::Named { parent };
        if row.is_directory() {
            row.attributes.links = 2;
            row.attributes.size_bytes = 0;
        } else {
            row.attributes.links = 1;
        }
        self.put_inode(row);
        let mut bytes = 0;
        if source.xattr_names_bytes > 0 {
            for (key, value) in self.scan_prefix(&keys::of(keys::XATTR, source.number().0), usize::MAX)? {
                let mut reader = KeyReader::new(&key);
                if reader.inode().is_none() {
                    return Err(corrupt(&key, "malformed key").into());
                }
                bytes += key.len() + value.len();
                self.put(
                    keys::xattr(inode, reader.rest()),
                    &decode::<BytesRow>(&key, &value)?,
                );
            }
        }
        if row.attributes.kind == FileType::SymbolicLink {
            let key = keys::symbolic_link(source.number());
            let target: BytesRow = self
                .get(&key)?
                .ok_or_else(|| corrupt(&key, "a symbolic link has no target"))?;
            bytes += target.0.len();
            self.put(keys::symbolic_link(inode), &target);
        }
        Ok(bytes / BYTES_PER_COST)
    }

    /// Extents of a file.
    fn copy_extents(&mut self, job: &mut CopyRow, file: CopyFile, limit: usize) -> Attempt<usize> {
        let source = self.named_inode(file.source)?;
        let mut row = self.named_inode(file.copy)?;
        let before = row.attributes.allocated_bytes;
        let wanted = PAGE.min(limit);
        let page = self.extents_after(&source, file.until, wanted)?;
        let mut complete = page.len() < wanted;
        let (mut cost, mut until) = (1, file.until);
        let (mut at, count) = (0, page.len());
        for extent in page {
            if cost >= limit {
                complete = false;
                break;
            }
            at += 1;
            until = extent.end;
            let copied = match extent.source {
                SourceRow::Object { .. } | SourceRow::Reserved => extent,
                // These bytes are new in this record: the far side lacks them since now.
                SourceRow::Inline { bytes, .. } => {
                    cost += bytes.len() / BYTES_PER_COST;
                    Placed {
                        start: extent.start,
                        end: extent.end,
                        source: SourceRow::Inline {
                            bytes,
                            position: self.context.position,
                            since: self.context.now,
                        },
                    }
                }
            };
            cost += 1;
            self.attach(&mut row, copied)?;
        }
        complete &= at == count;
        self.put_inode(row);
        let bytes = row.attributes.allocated_bytes - before;
        if let Place::Named { parent } = row.place {
            self.charge(parent, Change::plus(bytes, 0), Limits::Ignore)?;
        }
        job.file = (!complete).then_some(CopyFile { until, ..file });
        Ok(cost)
    }

    /// Everything is copied.
    fn complete_copy(&mut self, copy: InodeNumber, mut row: CopyRow) -> Attempt<()> {
        let goal = row.goal.clone();
        match &goal {
            CopyGoal::Claim { capacity_bytes } => {
                let mut claimed = self.claimed_row(copy)?;
                if let Err(reason) = self.name_copy(copy, &claimed)? {
                    return self.fail_copy(copy, &reason);
                }
                claimed.state = CopyState::Ready;
                self.put(keys::claimed(copy), &claimed);
                self.limit_bytes(copy, *capacity_bytes)?;
                self.count_claimed(copy, 1)?;
            }
            CopyGoal::Snapshot(key) => {
                let key = keys::snapshot(key);
                let mut snapshot: SnapshotRow = self
                    .get(&key)?
                    .ok_or_else(|| corrupt(&key, "a copy is made for it, but it does not exist"))?;
                snapshot.state = CopyState::Ready;
                self.put(key, &snapshot);
            }
        }
        row.phase = CopyPhase::Clearing;
        self.put(keys::copy(copy), &row);
        self.clear_copy(copy, PAGE)
    }

    /// Gives the root of a copy its name; says why not if something is in the way.
    fn name_copy(&mut self, copy: InodeNumber, claimed: &ClaimedRow) -> Attempt<Result<(), String>> {
        let path = &claimed.path;
        let (parent, name) = match self.make_parents(path) {
            Ok(place) => place,
            Err(Failure::Refused(refused)) => return Ok(Err(refused.to_string())),
            Err(other) => return Err(other),
        };
        if self.entry(parent, &name)?.is_some() {
            return Ok(Err(format!("{path} was made meanwhile")));
        }
        let copies = self.hidden()?.copies;
        self.relocate(copy, (copies, &hidden_name(copy)?), (parent, &name))?;
        Ok(Ok(()))
    }

    /// A copy will not be completed.
    pub(super) fn fail_copy(&mut self, copy: InodeNumber, reason: &str) -> Attempt<()> {
        let Some(row) = self.copy_row(copy)? else {
            return Ok(());
        };
        if row.phase != CopyPhase::Copying {
            return Ok(());
        }
        let state = CopyState::Failed {
            reason: reason.to_owned(),
        };
        match &row.goal {
            CopyGoal::Claim { .. } => {
                let claimed = self.claimed_row(copy)?;
                self.put(keys::claimed(copy), &ClaimedRow { state, ..claimed });
            }
            CopyGoal::Snapshot(key) => {
                let key = keys::snapshot(key);
                if let Some(snapshot) = self.get::<SnapshotRow>(&key)? {
                    self.put(key, &SnapshotRow { state, ..snapshot });
                }
            }
        }
        self.give_up_copy(copy)
    }

    /// What there is of a copy is taken apart. Its goal is the caller's business.
    pub(super) fn give_up_copy(&mut self, copy: InodeNumber) -> Attempt<()> {
        let Some(mut row) = self.copy_row(copy)? else {
            return Err(corrupt(&keys::copy(copy), "a copy is said to be under way, but is not").into());
        };
        let copies = self.hidden()?.copies;
        self.raze_tree(copy, (copies, &hidden_name(copy)?))?;
        row.phase = CopyPhase::Clearing;
        (row.directory, row.file) = (None, None);
        self.put(keys::copy(copy), &row);
        Ok(())
    }

    /// A directory that is being copied stays.
    pub(super) fn refuse_while_copied(&mut self, source: InodeNumber, what: &dyn Display) -> Attempt<()> {
        for (key, value) in self.scan(&[keys::COPY], &[keys::COPY + 1], usize::MAX)? {
            let row: CopyRow = decode(&key, &value)?;
            if row.source == source && row.phase == CopyPhase::Copying {
                return Err(Refused::BeingCopied(what.to_string()).into());
            }
        }
        Ok(())
    }
}
