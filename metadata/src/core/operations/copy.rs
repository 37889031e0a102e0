//! `copy_file_range`: the destination names the source's bytes, nothing is copied but inline bytes.

use twinshore_protocol::{Errno, FileType, InodeNumber, Reply};

use super::attributes::written;
use crate::core::extents::FILE_MAX_BYTES;
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::SourceRow;

/// How many extents one operation shares; the program asks again for the rest.
const EXTENTS_MAX: usize = 1024;

/// How many inline bytes one operation copies: they ride in its record.
const INLINE_MAX_BYTES: u64 = 1 << 20;

pub fn copy_range(
    t: &mut Transaction<'_>,
    (source, source_offset): (InodeNumber, u64),
    (destination, destination_offset): (InodeNumber, u64),
    length: u64,
) -> Attempt<Reply> {
    let from = t.inode(source)?;
    let mut to = t.inode(destination)?;
    for kind in [from.attributes.kind, to.attributes.kind] {
        match kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::IsDirectory.into()),
            _ => return Err(Errno::Invalid.into()),
        }
    }
    let source_end = source_offset.checked_add(length).ok_or(Errno::Overflow)?;
    let destination_end = destination_offset.checked_add(length).ok_or(Errno::Overflow)?;
    let source_end = source_end.min(from.attributes.size_bytes);
    if source == destination && source_offset < destination_end && destination_offset < source_offset + length
    {
        return Err(Errno::Invalid.into());
    }
    if source_end <= source_offset {
        return Ok(Reply::Copied {
            length: 0,
            attributes: to.attributes,
        });
    }
    let mut covered = source_end;
    let mut inline_bytes = 0;
    let mut parts = Vec::new();
    let extents = t.extents_after(&from, source_offset, EXTENTS_MAX)?;
    if extents.len() == EXTENTS_MAX {
        covered = extents.last().map_or(covered, |last| last.end.min(source_end));
    }
    for part in extents
        .into_iter()
        .filter_map(|extent| extent.clipped(source_offset, source_end))
    {
        if let SourceRow::Inline { bytes, .. } = &part.source {
            inline_bytes += bytes.len() as u64;
            if inline_bytes > INLINE_MAX_BYTES && !parts.is_empty() {
                covered = part.start;
                break;
            }
        }
        parts.push(part);
    }
    let length = covered - source_offset;
    let end = destination_offset + length;
    if end > FILE_MAX_BYTES {
        return Err(Errno::FileTooBig.into());
    }
    let before = to.attributes.allocated_bytes;
    t.replace(&mut to, destination_offset, end, None)?;
    for part in parts {
        let source = match part.source {
            SourceRow::Object { object, offset } => SourceRow::Object { object, offset },
            // These bytes are new in this record: the far side lacks them since now.
            SourceRow::Inline { bytes, .. } => SourceRow::Inline {
                bytes,
                position: t.context.position,
                since: t.context.now,
            },
            // Reserved space reads as zeros, and so does a hole.
            SourceRow::Reserved => continue,
        };
        let start = destination_offset + (part.start - source_offset);
        t.replace(&mut to, start, start + (part.end - part.start), Some(source))?;
    }
    to.attributes.size_bytes = to.attributes.size_bytes.max(end);
    t.charge_bytes(
        &to,
        to.attributes.allocated_bytes.cast_signed() - before.cast_signed(),
    )?;
    t.clear_privileges_of_writer(&mut to);
    written(t, &mut to, None);
    t.put_inode(to);
    t.attributes_changed(destination);
    Ok(Reply::Copied {
        length,
        attributes: to.attributes,
    })
}
