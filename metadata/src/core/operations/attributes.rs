//! Changing attributes: `chmod`, `chown`, `truncate`, `utimensat`, and opening with `O_TRUNC`.

use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::{Errno, FileType, InodeNumber, Reply, Timestamp};

use crate::core::acl;
use crate::core::extents::FILE_MAX_BYTES;
use crate::core::keys;
use crate::core::permissions::{SET_GROUP, WRITE, in_group, is_root, owns};
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{BytesRow, InodeRow};

pub fn set(t: &mut Transaction<'_>, inode: InodeNumber, changes: &AttributeChanges) -> Attempt<Reply> {
    let mut row = t.inode(inode)?;
    let AttributeChanges {
        mode,
        user,
        group,
        size_bytes,
        accessed,
        modified,
    } = *changes;
    if *changes == AttributeChanges::default() {
        return Ok(Reply::Attributes(row.attributes));
    }
    change_owner(t, &mut row, user, group)?;
    if let Some(mode) = mode {
        change_mode(t, &mut row, mode)?;
    }
    if size_bytes.is_none() {
        // Times that come with a size are a side effect of truncating, not a request of their own.
        require_times(t, &row, accessed, modified)?;
    }
    if let Some(size_bytes) = size_bytes {
        truncate(t, &mut row, size_bytes)?;
    }
    let now = t.context.now;
    let at = |change: TimeChange| -> Timestamp {
        match change {
            TimeChange::Now => now,
            TimeChange::To(time) => time,
        }
    };
    row.attributes.accessed = accessed.map_or(row.attributes.accessed, at);
    row.attributes.modified = modified.map_or(row.attributes.modified, at);
    row.attributes.changed = now;
    t.put_inode(row);
    t.attributes_changed(inode);
    Ok(Reply::Attributes(row.attributes))
}

fn change_owner(
    t: &mut Transaction<'_>,
    row: &mut InodeRow,
    user: Option<u32>,
    group: Option<u32>,
) -> Attempt<()> {
    if user.is_none() && group.is_none() {
        return Ok(());
    }
    let caller = t.context.caller;
    let may_user = user.is_none_or(|user| {
        is_root(caller) || caller.user == row.attributes.user && user == row.attributes.user
    });
    let may_group = group.is_none_or(|group| {
        let owner = caller.user == row.attributes.user;
        is_root(caller) || owner && (group == row.attributes.group || in_group(caller, group))
    });
    if !may_user || !may_group {
        return Err(Errno::NotPermitted.into());
    }
    // Linux clears them whoever asks, root included, so that they never serve another owner.
    t.clear_privileges(row);
    row.attributes.user = user.unwrap_or(row.attributes.user);
    row.attributes.group = group.unwrap_or(row.attributes.group);
    Ok(())
}

fn change_mode(t: &mut Transaction<'_>, row: &mut InodeRow, mode: u16) -> Attempt<()> {
    t.require_owner(row)?;
    if row.attributes.kind == FileType::SymbolicLink {
        return Err(Errno::NotSupported.into());
    }
    let caller = t.context.caller;
    let mut mode = mode & 0o7777;
    if !is_root(caller) && !in_group(caller, row.attributes.group) {
        mode &= !SET_GROUP;
    }
    row.attributes.mode = mode;
    if row.has_access_acl
        && let Some(mut acl) = t.access_acl(row)?
    {
        acl.set_mode(mode);
        t.put(keys::xattr(row.number(), acl::ACCESS), &BytesRow(acl.to_bytes()));
    }
    Ok(())
}

/// Setting both times to now needs permission to write; anything else needs the owner (`vfs_utimes`).
fn require_times(
    t: &Transaction<'_>,
    row: &InodeRow,
    accessed: Option<TimeChange>,
    modified: Option<TimeChange>,
) -> Attempt<()> {
    match (accessed, modified) {
        (None, None) => Ok(()),
        (Some(TimeChange::Now), Some(TimeChange::Now)) => {
            if owns(t.context.caller, &row.attributes) {
                Ok(())
            } else {
                t.require(row, WRITE)
            }
        }
        _ => t.require_owner(row),
    }
}

/// Permission to write is not checked: for `ftruncate` it was checked at `open`, for `truncate` by the kernel.
fn truncate(t: &mut Transaction<'_>, row: &mut InodeRow, size_bytes: u64) -> Attempt<()> {
    match row.attributes.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::IsDirectory.into()),
        _ => return Err(Errno::Invalid.into()),
    }
    if size_bytes > FILE_MAX_BYTES {
        return Err(Errno::FileTooBig.into());
    }
    let before = row.attributes.allocated_bytes;
    t.resize(row, size_bytes)?;
    t.charge_bytes(
        row,
        row.attributes.allocated_bytes.cast_signed() - before.cast_signed(),
    )?;
    t.clear_privileges_of_writer(row);
    written(t, row, None);
    Ok(())
}

/// The content of a file has changed.
pub fn written(t: &mut Transaction<'_>, row: &mut InodeRow, modified: Option<Timestamp>) {
    row.attributes.modified = modified.unwrap_or(t.context.now);
    row.attributes.changed = t.context.now;
    row.attributes.content_version = t.context.position;
    t.content_changed(row.number());
}

/// `O_TRUNC` of a file that exists.
pub fn truncate_existing(t: &mut Transaction<'_>, row: &mut InodeRow) -> Attempt<()> {
    truncate(t, row, 0)?;
    t.put_inode(*row);
    t.attributes_changed(row.number());
    Ok(())
}

pub fn open(t: &mut Transaction<'_>, inode: InodeNumber, truncate: bool) -> Attempt<Reply> {
    let mut row = t.inode(inode)?;
    if truncate {
        truncate_existing(t, &mut row)?;
    }
    Ok(Reply::Attributes(row.attributes))
}
