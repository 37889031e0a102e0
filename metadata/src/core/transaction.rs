//! One operation under way: reads see its own writes; at the end all of it becomes mutations, or nothing.
//!
//! # States
//!
//! Open, until [`Transaction::finish`] consumes it: with a reply it checks the quotas, settles the objects and yields the
//! mutations; with an error number it yields none; with a [`CoreError`] the process has to stop. An operation that is unfinished yields the mutations
//! of its first part.
//!
//! # Invariants
//!
//! * Inodes, usage, objects and totals are kept decoded and are written once, however often an operation touches them.
//! * Nothing here depends on anything but the view, the context and the operation.

use std::collections::BTreeMap;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use twinshore_protocol::claims::Refused;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Errno, InodeNumber, ObjectId, Reply, wire};

use super::keys::{self, KeyReader};
use super::objects::ObjectState;
use super::usage::UsageState;
use super::values::{InodeRow, Place, TotalsRow};
use super::{Context, CoreError, Outcome};
use crate::view::{Mutation, View, ViewError};

/// Why an operation stops.
#[derive(Debug)]
pub(super) enum Failure {
    /// The answer is an error number.
    Errno(Errno),
    /// The core cannot go on.
    Core(CoreError),
    /// The answer says why it was refused; whatever was done so far is not.
    Refused(Box<Refused>),
    /// It is too much for one record: what was done so far stands, and the operation is to be executed again.
    Unfinished,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }
}

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Self {
        Self::Core(error.into())
    }
}

/// The result of a part of an operation.
pub(super) type Attempt<T> = Result<T, Failure>;

/// The state contradicts itself at a key.
pub(super) fn corrupt(key: &[u8], what: impl Into<String>) -> CoreError {
    let key = key
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    CoreError::Corrupt {
        key,
        what: what.into(),
    }
}

/// Decodes a value of the view.
pub(super) fn decode<T: for<'b> Decode<'b, ()>>(key: &[u8], value: &[u8]) -> Result<T, CoreError> {
    minicbor::decode(value).map_err(|error| corrupt(key, format!("the value cannot be decoded: {error}")))
}

/// Reads a value of a view.
pub(super) fn read<T: for<'b> Decode<'b, ()>>(view: &dyn View, key: &[u8]) -> Result<Option<T>, CoreError> {
    view.get(key)?.map(|value| decode(key, &value)).transpose()
}

/// How many of the latest changes are compared with a new one: more than any operation on names makes.
const CHANGES_COMPARED: usize = 12;

/// Numbers between two inodes that are read over rather than looked for apart.
const INODES_SKIPPED_MAX: u64 = 8;

struct CachedInode {
    row: Option<InodeRow>,
    changed: bool,
}

/// One operation under way.
pub(super) struct Transaction<'a> {
    view: &'a dyn View,
    pub(super) context: &'a Context<'a>,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    inodes: BTreeMap<InodeNumber, CachedInode>,
    pub(super) usage: BTreeMap<InodeNumber, UsageState>,
    pub(super) objects: BTreeMap<ObjectId, ObjectState>,
    totals: Option<(TotalsRow, TotalsRow)>,
    format: Option<VolumeFormat>,
    changes: Vec<Invalidation>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(view: &'a dyn View, context: &'a Context<'a>) -> Self {
        Self {
            view,
            context,
            rows: BTreeMap::new(),
            inodes: BTreeMap::new(),
            usage: BTreeMap::new(),
            objects: BTreeMap::new(),
            totals: None,
            format: None,
            changes: Vec::new(),
        }
    }

    /// Ends it.
    pub(super) fn finish(mut self, result: Attempt<Reply>) -> Result<Outcome, CoreError> {
        let result = match result {
            Err(Failure::Unfinished) => Ok(None),
            other => other.map(Some),
        };
        let settled = result.and_then(|reply| {
            self.check_quotas()?;
            self.settle_objects()?;
            Ok(reply)
        });
        match settled {
            Ok(reply) => {
                self.write_cached();
                let mutations = self
                    .rows
                    .into_iter()
                    .map(|(key, value)| Mutation { key, value })
                    .collect();
                Ok(Outcome {
                    unfinished: reply.is_none(),
                    result: Ok(reply.unwrap_or(Reply::Done)),
                    mutations,
                    changes: self.changes,
                })
            }
            Err(Failure::Errno(errno)) => Ok(Outcome {
                result: Err(errno),
                unfinished: false,
                mutations: Vec::new(),
                changes: Vec::new(),
            }),
            Err(Failure::Refused(refused)) => Ok(Outcome {
                result: Ok(Reply::Refused(refused)),
                unfinished: false,
                mutations: Vec::new(),
                changes: Vec::new(),
            }),
            Err(Failure::Unfinished) => Err(corrupt(keys::TOTALS, "settling is never unfinished")),
            Err(Failure::Core(error)) => Err(error),
        }
    }

    fn write_cached(&mut self) {
        for (number, cached) in std::mem::take(&mut self.inodes) {
            if cached.changed {
                self.rows
                    .insert(keys::inode(number), cached.row.map(|row| wire::encode(&row)));
            }
        }
        for (directory, state) in std::mem::take(&mut self.usage) {
            if state.row != state.original {
                self.rows
                    .insert(keys::usage(directory), state.row.map(|row| wire::encode(&row)));
            }
        }
        for (object, state) in std::mem::take(&mut self.objects) {
            if state.row != state.original {
                self.rows
                    .insert(keys::object(object), state.row.map(|row| wire::encode(&row)));
            }
        }
        if let Some((original, totals)) = self.totals.take()
            && original != totals
        {
            self.rows
                .insert(Bytes::from_static(keys::TOTALS), Some(wire::encode(&totals)));
        }
    }

    /// A value, as this operation has left it.
    pub(super) fn get<T: for<'b> Decode<'b, ()>>(&self, key: &[u8]) -> Attempt<Option<T>> {
        let value = match self.rows.get(key) {
            Some(own) => own.clone(),
            None => self.view.get(key)?,
        };
        Ok(value.map(|value| decode(key, &value)).transpose()?)
    }

    /// Is there a value?
    pub(super) fn exists(&self, key: &[u8]) -> Attempt<bool> {
        Ok(match self.rows.get(key) {
            Some(own) => own.is_some(),
            None => self.view.get(key)?.is_some(),
        })
    }

    /// Sets a value.
    pub(super) fn put<T: Encode<()>>(&mut self, key: Bytes, value: &T) {
        self.rows.insert(key, Some(wire::encode(value)));
    }

    /// Sets a key that needs no value.
    pub(super) fn mark(&mut self, key: Bytes) {
        self.rows.insert(key, Some(Bytes::new()));
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: Bytes) {
        self.rows.insert(key, None);
    }

    /// At most `limit` pairs with `start <= key < end`, in order, as this operation has left them.
    pub(super) fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Attempt<Vec<(Bytes, Bytes)>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = || {
            self.rows
                .range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)))
        };
        if range().next().is_none() {
            return Ok(self.view.scan(start, end, limit)?);
        }
        let removed = range().filter(|(_, value)| value.is_none()).count();
        // Every row of the view that is replaced by one of ours makes place for another.
        let base = self.view.scan(start, end, limit.saturating_add(removed))?;
        let mut merged: BTreeMap<Bytes, Bytes> = base.into_iter().collect();
        for (key, value) in range() {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }

    /// All keys with a prefix, at most `limit`.
    pub(super) fn scan_prefix(&self, prefix: &[u8], limit: usize) -> Attempt<Vec<(Bytes, Bytes)>> {
        self.scan(prefix, &keys::after_prefix(prefix), limit)
    }

    /// An inode, unless it does not exist or is being cleaned up.
    pub(super) fn find_inode(&mut self, number: InodeNumber) -> Attempt<Option<InodeRow>> {
        let row = self.any_inode(number)?;
        Ok(row.filter(|row| row.place != Place::Orphan { cleaning: true }))
    }

    /// An inode, whatever its state.
    pub(super) fn any_inode(&mut self, number: InodeNumber) -> Attempt<Option<InodeRow>> {
        if let Some(cached) = self.inodes.get(&number) {
            return Ok(cached.row);
        }
        let row = read(self.view, &keys::inode(number))?;
        self.inodes.insert(number, CachedInode { row, changed: false });
        Ok(row)
    }

    /// Reads inodes that will be asked for. Those made by one client lie close together, and reading on costs a tenth of
    /// looking for each.
    pub(super) fn read_inodes(&mut self, numbers: impl Iterator<Item = InodeNumber>) -> Attempt<()> {
        let mut wanted: Vec<InodeNumber> = numbers
            .filter(|number| !self.inodes.contains_key(number))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        for near in wanted.chunk_by(|one, next| next.0 - one.0 <= INODES_SKIPPED_MAX) {
            let [first, .., last] = near else { continue };
            let (start, end) = (keys::inode(*first), keys::after(&keys::inode(*last)));
            for (key, value) in self.view.scan(&start, &end, usize::MAX)? {
                let number = KeyReader::new(&key)
                    .inode()
                    .ok_or_else(|| corrupt(&key, "malformed key"))?;
                if near.binary_search(&number).is_ok() {
                    let row = Some(decode(&key, &value)?);
                    self.inodes.insert(number, CachedInode { row, changed: false });
                }
            }
        }
        Ok(())
    }

    /// An inode that a client names by its number: `ESTALE` if it is gone, so that the kernel looks its name up again.
    pub(super) fn inode(&mut self, number: InodeNumber) -> Attempt<InodeRow> {
        Ok(self.find_inode(number)?.ok_or(Errno::Stale)?)
    }

    /// An inode that another row names: it must exist.
    pub(super) fn named_inode(&mut self, number: InodeNumber) -> Attempt<InodeRow> {
        Ok(self.any_inode(number)?.ok_or_else(|| {
            corrupt(
                &keys::inode(number),
                "a name or a row names it, but it does not exist",
            )
        })?)
    }

    /// Writes an inode.
    pub(super) fn put_inode(&mut self, row: InodeRow) {
        self.inodes.insert(
            row.number(),
            CachedInode {
                row: Some(row),
                changed: true,
            },
        );
    }

    /// Removes an inode's row.
    pub(super) fn remove_inode_row(&mut self, number: InodeNumber) {
        self.inodes.insert(
            number,
            CachedInode {
                row: None,
                changed: true,
            },
        );
    }

    /// Sums over the volume, to be changed in place.
    pub(super) fn totals(&mut self) -> Attempt<&mut TotalsRow> {
        if self.totals.is_none() {
            let row = read::<TotalsRow>(self.view, keys::TOTALS)?.unwrap_or_default();
            self.totals = Some((row, row));
        }
        match &mut self.totals {
            Some((_, totals)) => Ok(totals),
            None => Err(corrupt(keys::TOTALS, "not loaded").into()),
        }
    }

    /// The format record.
    pub(super) fn format(&mut self) -> Attempt<&VolumeFormat> {
        if self.format.is_none() {
            self.format = self.get(keys::FORMAT)?;
        }
        self.format
            .as_ref()
            .ok_or_else(|| corrupt(keys::FORMAT, "there is no volume").into())
    }

    /// Replaces the format record.
    pub(super) fn set_format(&mut self, format: VolumeFormat) {
        self.put(Bytes::from_static(keys::FORMAT), &format);
        self.format = Some(format);
    }

    /// Tells others who cache.
    pub(super) fn changed(&mut self, change: Invalidation) {
        // One change is often told twice in a row. Of a commit of many files only the neighbours are worth a look.
        if !self
            .changes
            .iter()
            .rev()
            .take(CHANGES_COMPARED)
            .any(|known| *known == change)
        {
            self.changes.push(change);
        }
    }

    /// The attributes of an inode have changed.
    pub(super) fn attributes_changed(&mut self, inode: InodeNumber) {
        self.changed(Invalidation::Attributes(inode));
    }

    /// The content of an inode has changed.
    pub(super) fn content_changed(&mut self, inode: InodeNumber) {
        self.changed(Invalidation::Content(inode));
    }
}
