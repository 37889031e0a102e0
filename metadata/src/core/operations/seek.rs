//! Where the bytes of a file are, and where there are none.

use bytes::Bytes;
use twinshore_protocol::operation::SeekTarget;
use twinshore_protocol::{Errno, Extent, ExtentSource, FileType, InodeNumber, Reply, Sides};

use crate::core::extents::Placed;
use crate::core::keys;
use crate::core::transaction::{Attempt, Transaction, corrupt};
use crate::core::values::{InodeRow, SourceRow};

/// How many extents a reply names.
const EXTENTS_MAX: usize = 1024;

/// How many inline bytes a reply carries, beyond its first extent.
const INLINE_MAX_BYTES: u64 = 1 << 20;

/// How many extents a search looks at at a time.
const PAGE: usize = 256;

fn regular(t: &mut Transaction<'_>, inode: InodeNumber) -> Attempt<InodeRow> {
    let row = t.inode(inode)?;
    match row.attributes.kind {
        FileType::Regular => Ok(row),
        FileType::Directory => Err(Errno::IsDirectory.into()),
        _ => Err(Errno::Invalid.into()),
    }
}

/// An extent as clients see it.
pub fn described(t: &mut Transaction<'_>, extent: &Placed) -> Attempt<Extent> {
    let source = match &extent.source {
        SourceRow::Object { object, offset } => {
            let row = t.object(*object)?;
            let present = row.map_or(Sides::NONE, |row| row.present);
            if row.is_none() {
                return Err(corrupt(&keys::object(*object), "an extent names an unknown object").into());
            }
            ExtentSource::Object {
                object: *object,
                object_offset: *offset,
                present,
            }
        }
        SourceRow::Inline { bytes, .. } => ExtentSource::Inline(Bytes::clone(bytes)),
        SourceRow::Reserved => ExtentSource::Reserved,
    };
    Ok(Extent {
        file_offset: extent.start,
        length: extent.end - extent.start,
        source,
    })
}

pub fn get_extents(t: &mut Transaction<'_>, inode: InodeNumber, offset: u64, length: u64) -> Attempt<Reply> {
    let row = regular(t, inode)?;
    let end = offset.saturating_add(length);
    let found = t.extents_after(&row, offset, EXTENTS_MAX)?;
    let mut covered_until = end;
    if found.len() == EXTENTS_MAX {
        covered_until = found.last().map_or(end, |last| last.end.min(end));
    }
    let mut inline_bytes = 0;
    let mut extents = Vec::new();
    for part in found.iter().filter_map(|extent| extent.clipped(offset, end)) {
        if let SourceRow::Inline { bytes, .. } = &part.source {
            inline_bytes += bytes.len() as u64;
            if inline_bytes > INLINE_MAX_BYTES && !extents.is_empty() {
                covered_until = part.start;
                break;
            }
        }
        extents.push(described(t, &part)?);
    }
    Ok(Reply::Extents {
        extents,
        covered_until,
        attributes: row.attributes,
    })
}

/// Reserved space counts as a hole, as on ext4: it holds no data.
pub fn seek(t: &mut Transaction<'_>, inode: InodeNumber, offset: u64, target: SeekTarget) -> Attempt<Reply> {
    let row = regular(t, inode)?;
    let size = row.attributes.size_bytes;
    if offset >= size {
        return Err(Errno::NoData.into());
    }
    let mut next = offset;
    loop {
        let page = t.extents_after(&row, next, PAGE)?;
        let full = page.len() == PAGE;
        for extent in page {
            let is_data = !matches!(extent.source, SourceRow::Reserved);
            match target {
                SeekTarget::Data if is_data => {
                    let found = extent.start.max(offset);
                    return if found < size {
                        Ok(Reply::Offset(found))
                    } else {
                        Err(Errno::NoData.into())
                    };
                }
                SeekTarget::Hole if !is_data || extent.start > next => {
                    return Ok(Reply::Offset(next.min(size)));
                }
                SeekTarget::Data | SeekTarget::Hole => next = extent.end,
            }
        }
        if !full {
            break;
        }
    }
    match target {
        SeekTarget::Data => Err(Errno::NoData.into()),
        SeekTarget::Hole => Ok(Reply::Offset(next.min(size))),
    }
}
