//! New content becomes visible: all files of a commit, or none.

use twinshore_protocol::operation::{FileCommit, FileWrite, NewObject};
use twinshore_protocol::{Errno, ExtentSource, FileType, Reply};

use super::attributes::written;
use crate::core::extents::FILE_MAX_BYTES;
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{InodeRow, SourceRow};

/// What an inline write may hold although the volume's limit is smaller: a client may not have heard of a new limit yet.
const INLINE_TOLERATED_BYTES: u64 = 64 << 10;

/// A file that has vanished answers `ESTALE`: the client commits the others without it.
pub fn commit(t: &mut Transaction<'_>, objects: &[NewObject], files: &[FileCommit]) -> Attempt<Reply> {
    for object in objects {
        t.register_object(object)?;
    }
    let mut attributes = Vec::with_capacity(files.len());
    for file in files {
        attributes.push(commit_file(t, file)?.attributes);
    }
    // Attributes as they are after all of them: a file may stand in a commit more than once.
    for known in &mut attributes {
        *known = t.named_inode(known.inode)?.attributes;
    }
    Ok(Reply::Committed { attributes })
}

fn commit_file(t: &mut Transaction<'_>, file: &FileCommit) -> Attempt<InodeRow> {
    let FileCommit {
        inode,
        writes,
        modified,
        clear_privileges,
    } = file;
    let mut row = t.inode(*inode)?;
    match row.attributes.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::IsDirectory.into()),
        _ => return Err(Errno::Invalid.into()),
    }
    let before = row.attributes.allocated_bytes;
    for write in writes {
        let FileWrite {
            file_offset,
            length,
            source,
        } = write;
        let end = file_offset.checked_add(*length).ok_or(Errno::FileTooBig)?;
        if end > FILE_MAX_BYTES {
            return Err(Errno::FileTooBig.into());
        }
        if *length == 0 {
            return Err(Errno::Invalid.into());
        }
        let source = accepted(t, source, *length)?;
        t.replace(&mut row, *file_offset, end, Some(source))?;
        row.attributes.size_bytes = row.attributes.size_bytes.max(end);
    }
    t.charge_bytes(
        &row,
        row.attributes.allocated_bytes.cast_signed() - before.cast_signed(),
    )?;
    if writes.is_empty() {
        row.attributes.modified = modified.unwrap_or(row.attributes.modified);
        row.attributes.changed = t.context.now;
    } else {
        // Whoever flushes need not be who wrote: only the flag tells whether privileges have to go.
        written(t, &mut row, *modified);
    }
    if *clear_privileges {
        t.clear_privileges(&mut row);
    }
    t.put_inode(row);
    t.attributes_changed(*inode);
    Ok(row)
}

/// What a client may give as the source of new content.
fn accepted(t: &mut Transaction<'_>, source: &ExtentSource, length: u64) -> Attempt<SourceRow> {
    match source {
        ExtentSource::Object {
            object,
            object_offset,
            present: _,
        } => {
            t.require_object(*object, *object_offset, length)?;
            Ok(SourceRow::Object {
                object: *object,
                offset: *object_offset,
            })
        }
        ExtentSource::Inline(bytes) => {
            let limit = u64::from(t.format()?.settings.inline_limit_bytes).max(INLINE_TOLERATED_BYTES);
            if bytes.len() as u64 != length || length > limit {
                return Err(Errno::Invalid.into());
            }
            Ok(SourceRow::Inline {
                bytes: bytes.clone(),
                position: t.context.position,
                since: t.context.now,
            })
        }
        ExtentSource::Reserved => Err(Errno::Invalid.into()),
    }
}
