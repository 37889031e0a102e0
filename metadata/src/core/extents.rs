//! The ranges of a file and where their bytes are.
//!
//! # Invariants
//!
//! * Extents of a file never overlap and are never empty. Each is stored under its end, so one seek finds the first that
//!   ends after an offset.
//! * `allocated_bytes` of the inode is the sum of their lengths. An inode that allocates nothing has none, and is not
//!   searched.
//! * An object's live bytes are the sum of the lengths of all extents that name it. Every inline extent has its row in `P`.
//! * `extents` of the inode is their number; a file with many small ones has a row in `F`.
//! * Neighbours that continue each other are one extent, as far as that is seen without searching for it.

use twinshore_protocol::InodeNumber;

use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Failure, Transaction, corrupt, decode};
use super::values::{ExtentRow, InlineRow, InodeRow, SourceRow};

/// The largest size of a file: offsets are signed on Linux.
pub(super) const FILE_MAX_BYTES: u64 = i64::MAX.cast_unsigned();

/// How many extents of one range give way in one record, about. With what that changes of their objects it is a record of about a megabyte, which
/// is appended in some milliseconds; a file of millions of extents would make one that stalls everybody.
pub(super) const CLEARED_MAX: usize = 4096;

/// How many extents are read at a time.
const PAGE: usize = 64;

/// An extent in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) source: SourceRow,
}

impl Placed {
    /// The part within a range, if any.
    pub(super) fn clipped(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.start.max(start), self.end.min(end));
        (from < to).then(|| Self {
            start: from,
            end: to,
            source: self.source.part(from - self.start, to - from),
        })
    }
}

pub(super) fn placed(key: &[u8], value: &[u8]) -> Attempt<Placed> {
    let mut reader = KeyReader::new(key);
    let ExtentRow { length, source } = decode(key, value)?;
    match (reader.inode(), reader.number()) {
        (Some(_), Some(end)) if 0 < length && length <= end => Ok(Placed {
            start: end - length,
            end,
            source,
        }),
        _ => Err(corrupt(key, "malformed extent").into()),
    }
}

impl Transaction<'_> {
    /// Extents that end after an offset, in order, at most `limit`.
    pub(super) fn extents_after(&self, row: &InodeRow, offset: u64, limit: usize) -> Attempt<Vec<Placed>> {
        if row.attributes.allocated_bytes == 0 {
            return Ok(Vec::new());
        }
        let inode = row.number();
        let start = keys::extent(inode, offset.saturating_add(1));
        let rows = self.scan(
            &start,
            &keys::after_prefix(&keys::of(keys::EXTENT, inode.0)),
            limit,
        )?;
        rows.iter().map(|(key, value)| placed(key, value)).collect()
    }

    /// Gives a range new content; `None` makes a hole. The size stays.
    ///
    /// If too many extents are in the range its beginning gets the new content, and the operation is unfinished. Executed again it
    /// finds one extent there, or none, and gets further.
    pub(super) fn replace(
        &mut self,
        row: &mut InodeRow,
        start: u64,
        end: u64,
        source: Option<SourceRow>,
    ) -> Attempt<()> {
        let cleared_until = self.clear_range(row, start, end)?;
        if cleared_until == end {
            if let Some(source) = source {
                self.attach_merged(row, Placed { start, end, source })?;
            }
            return Ok(());
        }
        if let Some(source) = source {
            // Only reserved space may lie beyond the end of the file.
            if !matches!(source, SourceRow::Reserved) {
                row.attributes.size_bytes = row.attributes.size_bytes.max(cleared_until);
            }
            let placed = Placed {
                start,
                end: cleared_until,
                source: source.part(0, cleared_until - start),
            };
            self.attach_merged(row, placed)?;
        }
        self.leave_unfinished(*row)
    }

    /// Keeps what was done to a file so far.
    pub(super) fn leave_unfinished(&mut self, mut row: InodeRow) -> Attempt<()> {
        let before = self.named_inode(row.number())?.attributes;
        let (now, then) = (row.attributes.allocated_bytes, before.allocated_bytes);
        self.charge_bytes(&row, now.cast_signed() - then.cast_signed())?;
        row.attributes.content_version = self.context.position;
        self.put_inode(row);
        self.content_changed(row.number());
        self.attributes_changed(row.number());
        Err(Failure::Unfinished)
    }

    /// Makes a hole of a range, or of its beginning if too many extents are in it. Tells how far it came.
    fn clear_range(&mut self, row: &mut InodeRow, start: u64, end: u64) -> Attempt<u64> {
        let mut done_until = start;
        let mut cleared = 0;
        loop {
            let page = self.extents_after(row, done_until, PAGE)?;
            let full = page.len() == PAGE;
            for extent in page {
                if extent.start >= end {
                    return Ok(end);
                }
                if cleared >= CLEARED_MAX {
                    return Ok(done_until.min(end));
                }
                cleared += 1;
                done_until = extent.end;
                self.detach(row, &extent)?;
                for part in [extent.clipped(0, start), extent.clipped(end, u64::MAX)]
                    .into_iter()
                    .flatten()
                {
                    self.attach(row, part)?;
                }
            }
            if !full {
                return Ok(end);
            }
        }
    }

    /// Removes extents from the beginning, at most `limit`. Tells how many, and whether none is left.
    pub(super) fn remove_some_extents(&mut self, row: &mut InodeRow, limit: usize) -> Attempt<(usize, bool)> {
        let extents = self.extents_after(row, 0, limit)?;
        for extent in &extents {
            self.detach(row, extent)?;
        }
        Ok((extents.len(), row.attributes.allocated_bytes == 0))
    }

    /// Adds an extent where there is none, joined with the neighbours that it continues.
    fn attach_merged(&mut self, row: &mut InodeRow, mut extent: Placed) -> Attempt<()> {
        if row.attributes.allocated_bytes > 0 {
            if let Some(left) = self.neighbour_before(row.number(), &extent)? {
                self.detach(row, &left)?;
                extent = left.joined(&extent);
            }
            if let Some(right) = self.neighbour_after(row, &extent)? {
                self.detach(row, &right)?;
                extent = extent.joined(&right);
            }
        }
        self.attach(row, extent)
    }

    fn neighbour_before(&self, inode: InodeNumber, extent: &Placed) -> Attempt<Option<Placed>> {
        // The content of an object before its beginning cannot be in the neighbour; inline bytes are never joined.
        if matches!(
            extent.source,
            SourceRow::Inline { .. } | SourceRow::Object { offset: 0, .. }
        ) {
            return Ok(None);
        }
        let key = keys::extent(inode, extent.start);
        let Some(ExtentRow { length, source }) = self.get(&key)? else {
            return Ok(None);
        };
        let left = Placed {
            start: extent.start - length,
            end: extent.start,
            source,
        };
        Ok(left.continues_with(extent).then_some(left))
    }

    fn neighbour_after(&mut self, row: &InodeRow, extent: &Placed) -> Attempt<Option<Placed>> {
        match &extent.source {
            SourceRow::Inline { .. } => return Ok(None),
            SourceRow::Object { object, offset } => {
                let ends_with_object = (self.object(*object)?)
                    .is_some_and(|known| offset + (extent.end - extent.start) >= known.content_bytes);
                if ends_with_object {
                    return Ok(None);
                }
            }
            SourceRow::Reserved => {}
        }
        let right = self.extents_after(row, extent.end, 1)?.pop();
        Ok(right.filter(|right| right.start == extent.end && extent.continues_with(right)))
    }

    /// Adds an extent where there is none.
    pub(super) fn attach(&mut self, row: &mut InodeRow, extent: Placed) -> Attempt<()> {
        let length = extent.end - extent.start;
        match &extent.source {
            SourceRow::Object { object, .. } => self.name_object(*object, row.number(), length)?,
            SourceRow::Inline { position, since, .. } => {
                let inline = InlineRow {
                    length,
                    since: *since,
                };
                self.put(keys::inline(*position, row.number(), extent.end), &inline);
                let tally = &mut self.totals()?.inline;
                tally.count += 1;
                tally.bytes += length;
            }
            SourceRow::Reserved => {}
        }
        row.attributes.allocated_bytes += length;
        row.extents += 1;
        self.note_fragmentation(row)?;
        self.put(
            keys::extent(row.number(), extent.end),
            &ExtentRow {
                length,
                source: extent.source,
            },
        );
        Ok(())
    }

    fn detach(&mut self, row: &mut InodeRow, extent: &Placed) -> Attempt<()> {
        let length = extent.end - extent.start;
        match &extent.source {
            SourceRow::Object { object, .. } => self.forget_object(*object, length)?,
            SourceRow::Inline { position, .. } => {
                self.remove(keys::inline(*position, row.number(), extent.end));
                let tally = &mut self.totals()?.inline;
                tally.count = tally.count.saturating_sub(1);
                tally.bytes = tally.bytes.saturating_sub(length);
            }
            SourceRow::Reserved => {}
        }
        let key = keys::extent(row.number(), extent.end);
        let left = row.attributes.allocated_bytes.checked_sub(length);
        row.attributes.allocated_bytes =
            left.ok_or_else(|| corrupt(&key, "extents are longer than the inode allocates"))?;
        row.extents = row.extents.saturating_sub(1);
        self.note_fragmentation(row)?;
        self.remove(key);
        Ok(())
    }

    fn note_fragmentation(&mut self, row: &mut InodeRow) -> Attempt<()> {
        let is = row.is_fragmented();
        if is == row.fragmented {
            return Ok(());
        }
        row.fragmented = is;
        let key = keys::fragmented(row.number());
        let count = &mut self.totals()?.fragmented;
        if is {
            *count += 1;
            self.mark(key);
        } else {
            *count = count.saturating_sub(1);
            self.remove(key);
        }
        Ok(())
    }

    /// Cuts or lengthens a file. Lengthening makes a hole.
    ///
    /// While a cut is unfinished, what is to go becomes a hole, from the cut on; the size changes at the end.
    pub(super) fn resize(&mut self, row: &mut InodeRow, size_bytes: u64) -> Attempt<()> {
        if size_bytes < row.attributes.size_bytes && self.clear_range(row, size_bytes, u64::MAX)? < u64::MAX {
            return self.leave_unfinished(*row);
        }
        row.attributes.size_bytes = size_bytes;
        Ok(())
    }
}

impl Placed {
    fn continues_with(&self, next: &Self) -> bool {
        match (&self.source, &next.source) {
            (
                SourceRow::Object { object, offset },
                SourceRow::Object {
                    object: other,
                    offset: next_offset,
                },
            ) => object == other && offset + (self.end - self.start) == *next_offset,
            (SourceRow::Reserved, SourceRow::Reserved) => true,
            _ => false,
        }
    }

    /// This extent and the one that continues it.
    fn joined(self, next: &Self) -> Self {
        Self {
            start: self.start,
            end: next.end,
            source: self.source,
        }
    }
}
