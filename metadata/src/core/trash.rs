//! What becomes of an inode that has lost its last name, and how it comes back.
//!
//! # States
//!
//! Named, then trash (if the volume keeps removed files), then orphan while it is open or large, then gone. From the trash
//! it can be named again. An orphan whose cleaning has begun can not be used any more.
//!
//! # Invariants
//!
//! * `H` has a row for every inode in the trash, `Z` for every orphan; the inode says which it is.
//! * A directory that loses its name is empty, and stays empty: nothing can be made in a directory without a name. (Whole trees are moved: [`super::trees`].)

use twinshore_protocol::message::Invalidation;
use twinshore_protocol::reply::TrashItem;
use twinshore_protocol::{Errno, FileName, InodeNumber, Reply, Timestamp};

use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt, decode};
use super::usage::Limits;
use super::values::{EntryRow, InodeRow, Place, TrashRow, UsageRow};

/// An inode with at most this many extents is removed at once; larger ones in the background.
const REMOVE_AT_ONCE_EXTENTS: usize = 64;

/// The longest page of trash.
const PAGE_MAX: usize = 4096;

impl Transaction<'_> {
    /// An inode has no name any more (its links are 0 and no directory counts it).
    pub(super) fn forsake(&mut self, mut row: InodeRow, was: &TrashRow) -> Attempt<InodeRow> {
        if self.format()?.settings.trash_retention_seconds > 0 {
            let removed = self.context.now;
            row.place = Place::Trash { removed };
            self.put(keys::trash(removed, row.number()), was);
            let tally = &mut self.totals()?.trash;
            tally.count += 1;
            tally.bytes += row.attributes.allocated_bytes;
            self.put_inode(row);
            return Ok(row);
        }
        self.orphan(row)
    }

    /// An inode with neither name nor place in the trash.
    pub(super) fn orphan(&mut self, mut row: InodeRow) -> Attempt<InodeRow> {
        row.place = Place::Orphan { cleaning: false };
        self.put_inode(row);
        self.mark(keys::orphan(row.number()));
        let tally = &mut self.totals()?.orphans;
        tally.count += 1;
        tally.bytes += row.attributes.allocated_bytes;
        if !self.context.open.is_open(row.number()) {
            self.clean_orphan(row.number(), REMOVE_AT_ONCE_EXTENTS)?;
        }
        Ok(row)
    }

    /// Removes a piece of an orphan that is not open, and in the end itself. Tells how many rows were removed.
    pub(super) fn clean_orphan(&mut self, inode: InodeNumber, limit: usize) -> Attempt<usize> {
        let mut row = self.named_inode(inode)?;
        let before = row.attributes.allocated_bytes;
        let (removed, complete) = self.remove_some_extents(&mut row, limit)?;
        self.charge_bytes(
            &row,
            row.attributes.allocated_bytes.cast_signed() - before.cast_signed(),
        )?;
        if !complete {
            row.place = Place::Orphan { cleaning: true };
            self.put_inode(row);
            return Ok(removed);
        }
        for (key, _) in self.scan_prefix(&keys::of(keys::XATTR, inode.0), usize::MAX)? {
            self.remove(key);
        }
        if row.attributes.kind == twinshore_protocol::FileType::SymbolicLink {
            self.remove(keys::symbolic_link(inode));
        }
        if row.is_directory() {
            self.remove(keys::quota(inode));
        }
        self.remove(keys::orphan(inode));
        let tally = &mut self.totals()?.orphans;
        tally.count = tally.count.saturating_sub(1);
        tally.bytes = tally.bytes.saturating_sub(row.attributes.allocated_bytes);
        self.remove_inode_row(inode);
        Ok(removed + 1)
    }

    /// Takes an inode out of the trash for good.
    pub(super) fn expire(&mut self, removed: Timestamp, inode: InodeNumber) -> Attempt<()> {
        let row = self.named_inode(inode)?;
        if matches!(row.place, Place::Named { .. }) {
            self.expire_tree(removed, inode);
            return Ok(());
        }
        self.take_from_trash(removed, &row)?;
        self.orphan(row)?;
        Ok(())
    }

    fn take_from_trash(&mut self, removed: Timestamp, row: &InodeRow) -> Attempt<()> {
        self.remove(keys::trash(removed, row.number()));
        let tally = &mut self.totals()?.trash;
        tally.count = tally.count.saturating_sub(1);
        tally.bytes = tally.bytes.saturating_sub(row.attributes.allocated_bytes);
        Ok(())
    }

    /// A page of the trash.
    pub(super) fn list_trash(
        &mut self,
        after: Option<(Timestamp, InodeNumber)>,
        limit: u32,
    ) -> Attempt<Reply> {
        self.require_root()?;
        let start = match after {
            Some((removed, inode)) => keys::after(&keys::trash(removed, inode)),
            None => bytes::Bytes::from_static(&[keys::TRASH]),
        };
        let limit = usize::try_from(limit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let mut items = Vec::new();
        for (key, value) in self.scan(&start, &[keys::TRASH + 1], limit)? {
            let (removed, inode) = trash_key(&key)?;
            let TrashRow { parent, name } = decode(&key, &value)?;
            let row = self.named_inode(inode)?;
            let kind = row.attributes.kind;
            let size_bytes = if matches!(row.place, Place::Named { .. }) {
                self.usage(inode)?.bytes
            } else {
                row.attributes.size_bytes
            };
            items.push(TrashItem {
                inode,
                kind,
                parent,
                name,
                removed,
                size_bytes,
            });
        }
        Ok(Reply::Trash(items))
    }

    /// Gives a removed inode a name again.
    pub(super) fn restore(
        &mut self,
        inode: InodeNumber,
        to: Option<&(InodeNumber, FileName)>,
    ) -> Attempt<Reply> {
        self.require_root()?;
        let mut row = self.find_inode(inode)?.ok_or(Errno::NotFound)?;
        let tree = self.tree_in_trash(inode)?;
        let ((Place::Trash { removed }, _) | (Place::Named { .. }, Some(removed))) = (row.place, tree) else {
            return Err(Errno::NotFound.into());
        };
        let key = keys::trash(removed, inode);
        let was = self
            .get::<TrashRow>(&key)?
            .ok_or_else(|| corrupt(&key, "an inode in the trash lacks its row"))?;
        let (parent, name) = match to {
            Some((parent, name)) => (*parent, name.clone()),
            None => (was.parent, was.name),
        };
        self.directory(parent)?;
        self.require_in_sight(parent)?;
        if self.entry(parent, &name)?.is_some() {
            return Err(Errno::Exists.into());
        }
        if tree.is_some() {
            return self.restore_tree(removed, inode, (parent, &name));
        }
        self.take_from_trash(removed, &row)?;
        row.place = Place::Named { parent };
        row.attributes.links = if row.is_directory() { 2 } else { 1 };
        row.attributes.changed = self.context.now;
        if row.is_directory() {
            let limited = self.exists(&keys::quota(inode))?;
            self.set_usage(
                inode,
                Some(UsageRow {
                    bytes: 0,
                    inodes: 0,
                    parent,
                    limited,
                    claimed: 0,
                }),
            )?;
        }
        self.put_inode(row);
        self.changed(Invalidation::Everything(inode));
        self.add_entry(
            parent,
            &name,
            EntryRow {
                inode,
                kind: row.attributes.kind,
            },
        )?;
        let weight = self.weight(&row)?;
        self.charge(parent, weight, Limits::Apply)?;
        Ok(Reply::Entry(row.attributes))
    }

    /// Has the trash of before a time removed in the background.
    pub(super) fn purge(&mut self, before: Timestamp) -> Attempt<Reply> {
        self.require_root()?;
        let so_far: Option<Timestamp> = self.get(keys::PURGE)?;
        let before = so_far.map_or(before, |so_far| so_far.max(before));
        // Never what is removed after this request.
        self.put(
            bytes::Bytes::from_static(keys::PURGE),
            &before.min(self.context.now.plus_seconds(1)),
        );
        Ok(Reply::Done)
    }
}

/// Takes a key of the trash apart.
pub(super) fn trash_key(key: &[u8]) -> Attempt<(Timestamp, InodeNumber)> {
    let mut reader = KeyReader::new(key);
    match (reader.time(), reader.inode()) {
        (Some(removed), Some(inode)) => Ok((removed, inode)),
        _ => Err(corrupt(key, "malformed key").into()),
    }
}
