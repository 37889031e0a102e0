//! The same bytes at another place: inline bytes are packed into objects, fragmented files into fewer.

use twinshore_protocol::operation::{ExtentExchange, NewObject};
use twinshore_protocol::{Errno, Extent, ExtentSource, InodeNumber, ObjectId, Reply};

use super::seek::described;
use crate::core::extents::{Placed, placed};
use crate::core::keys::{self, KeyReader};
use crate::core::transaction::{Attempt, Transaction, corrupt};
use crate::core::values::{ExtentRow, InlineRow, InodeRow, SourceRow};

/// How many extents one reply of `ListInline` names.
const LIST_MAX: usize = 4096;

/// How many bytes of content one reply of `ListInline` carries, whatever was asked: it has to fit a message.
const LIST_MAX_BYTES: u64 = 3 << 20;

pub fn repoint(
    t: &mut Transaction<'_>,
    objects: &[NewObject],
    exchanges: &[ExtentExchange],
) -> Attempt<Reply> {
    for object in objects {
        t.register_object(object)?;
    }
    for exchange in exchanges {
        let ExtentSource::Object {
            object,
            object_offset,
            ..
        } = exchange.new
        else {
            return Err(Errno::Invalid.into());
        };
        t.require_object(object, object_offset, exchange.old.length)?;
        // What has changed or gone since is skipped: its bytes in the new object are dead from the start.
        if let Some((row, standing)) = standing(t, exchange.inode, &exchange.old)? {
            apply(t, row, &standing, object, object_offset)?;
        }
    }
    Ok(Reply::Done)
}

/// The extent as it was read, if it still stands.
fn standing(
    t: &mut Transaction<'_>,
    inode: InodeNumber,
    old: &Extent,
) -> Attempt<Option<(InodeRow, Placed)>> {
    let Some(row) = t.find_inode(inode)? else {
        return Ok(None);
    };
    let end = old.file_offset.checked_add(old.length).ok_or(Errno::Invalid)?;
    let Some(ExtentRow { length, source }) = t.get(&keys::extent(inode, end))? else {
        return Ok(None);
    };
    let same = match (&source, &old.source) {
        (
            SourceRow::Object { object, offset },
            ExtentSource::Object {
                object: old,
                object_offset,
                ..
            },
        ) => object == old && offset == object_offset,
        (SourceRow::Inline { bytes, .. }, ExtentSource::Inline(old)) => bytes == old,
        _ => false,
    };
    Ok((same && length == old.length).then_some((
        row,
        Placed {
            start: old.file_offset,
            end,
            source,
        },
    )))
}

/// Neither the content version nor any time changes: the bytes are the same.
fn apply(
    t: &mut Transaction<'_>,
    mut row: InodeRow,
    old: &Placed,
    object: ObjectId,
    offset: u64,
) -> Attempt<()> {
    // The state at the position of the old bytes now needs the new object: a watermark must not pass it.
    let position = match &old.source {
        SourceRow::Object { object, .. } => t.object(*object)?.map(|row| row.position),
        SourceRow::Inline { position, .. } => Some(*position),
        SourceRow::Reserved => None,
    };
    if let Some(position) = position {
        t.date_object_back(object, position)?;
    }
    t.replace(
        &mut row,
        old.start,
        old.end,
        Some(SourceRow::Object { object, offset }),
    )?;
    t.put_inode(row);
    t.content_changed(row.number());
    Ok(())
}

pub fn list_inline(t: &mut Transaction<'_>, limit_bytes: u64) -> Attempt<Reply> {
    let limit_bytes = limit_bytes.min(LIST_MAX_BYTES);
    let mut extents = Vec::new();
    let mut bytes = 0;
    for (key, value) in t.scan(&[keys::INLINE], &[keys::INLINE + 1], LIST_MAX)? {
        let InlineRow { length, .. } = crate::core::transaction::decode(&key, &value)?;
        if bytes + length > limit_bytes && !extents.is_empty() {
            break;
        }
        bytes += length;
        let mut reader = KeyReader::new(&key);
        let (Some(_), Some(inode), Some(end)) = (reader.number(), reader.inode(), reader.number()) else {
            return Err(corrupt(&key, "malformed key").into());
        };
        let extent_key = keys::extent(inode, end);
        let row = t
            .get::<ExtentRow>(&extent_key)?
            .ok_or_else(|| corrupt(&key, "an inline extent is missing"))?;
        let extent = placed(&extent_key, &twinshore_protocol::wire::encode(&row))?;
        extents.push((inode, described(t, &extent)?));
    }
    Ok(Reply::InlineExtents(extents))
}
