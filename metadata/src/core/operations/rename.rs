//! Moving and exchanging names, in the order of checks of `do_renameat2` and `vfs_rename`.

use twinshore_protocol::operation::RenameMode;
use twinshore_protocol::{Errno, FileName, FileType, InodeNumber, Reply};

use crate::core::permissions::{EXECUTE, WRITE};
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{EntryRow, InodeRow};

type Name<'n> = (InodeNumber, &'n FileName);

/// If both names are one inode, nothing happens and both stay: the reply then names it twice, as moved and as replaced.
pub fn rename(t: &mut Transaction<'_>, old: Name<'_>, new: Name<'_>, mode: RenameMode) -> Attempt<Reply> {
    let (old_directory, new_directory) = (t.directory(old.0)?, t.directory(new.0)?);
    let source = t.entry(old.0, old.1)?.ok_or(Errno::NotFound)?;
    let target = t.entry(new.0, new.1)?;
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Errno::Exists.into()),
        (RenameMode::Exchange, None) => return Err(Errno::NotFound.into()),
        _ => {}
    }
    refuse_loops(t, old, new, source, target, mode)?;
    let moved = t.named_inode(source.inode)?;
    if target.is_some_and(|target| target.inode == source.inode) {
        return Ok(Reply::Renamed {
            moved: moved.attributes,
            replaced: Some(moved.attributes),
        });
    }
    t.require_removal(&old_directory, &moved)?;
    let replaced = target.map(|target| t.named_inode(target.inode)).transpose()?;
    match &replaced {
        Some(replaced) => t.require_removal(&new_directory, replaced)?,
        None => t.require(&new_directory, WRITE | EXECUTE)?,
    }
    let exchange = mode == RenameMode::Exchange;
    if let Some(replaced) = &replaced
        && !exchange
    {
        match (moved.is_directory(), replaced.is_directory()) {
            (true, false) => return Err(Errno::NotDirectory.into()),
            (false, true) => return Err(Errno::IsDirectory.into()),
            (true, true) if replaced.attributes.size_bytes > 0 => return Err(Errno::NotEmpty.into()),
            _ => {}
        }
    }
    if old.0 != new.0 {
        // A directory that gets another parent is written: its `..` changes.
        require_reparenting(t, &moved)?;
        if let Some(replaced) = replaced.as_ref().filter(|_| exchange) {
            require_reparenting(t, replaced)?;
        }
        refuse_links_across_quotas(t, old.0, new.0, &moved)?;
        if let Some(replaced) = replaced.as_ref().filter(|_| exchange) {
            refuse_links_across_quotas(t, new.0, old.0, replaced)?;
        }
    }
    t.remove_entry(old.0, old.1, source)?;
    let Some(target) = target else {
        t.add_entry(new.0, new.1, source)?;
        let moved = t.move_name(source.inode, old, new)?;
        return Ok(Reply::Renamed {
            moved: moved.attributes,
            replaced: None,
        });
    };
    t.remove_entry(new.0, new.1, target)?;
    t.add_entry(new.0, new.1, source)?;
    let replaced = if exchange {
        t.add_entry(old.0, old.1, target)?;
        t.move_name(target.inode, new, old)?
    } else {
        t.drop_name(target.inode, new.0, new.1)?
    };
    let moved = t.move_name(source.inode, old, new)?;
    Ok(Reply::Renamed {
        moved: moved.attributes,
        replaced: Some(replaced.attributes),
    })
}

/// A directory must not get below itself.
fn refuse_loops(
    t: &mut Transaction<'_>,
    old: Name<'_>,
    new: Name<'_>,
    source: EntryRow,
    target: Option<EntryRow>,
    mode: RenameMode,
) -> Attempt<()> {
    if old.0 == new.0 {
        return Ok(());
    }
    if source.kind == FileType::Directory && t.is_within(new.0, source.inode)? {
        return Err(Errno::Invalid.into());
    }
    if let Some(target) = target
        && target.kind == FileType::Directory
        && t.is_within(old.0, target.inode)?
    {
        let exchange = mode == RenameMode::Exchange;
        return Err(if exchange { Errno::Invalid } else { Errno::NotEmpty }.into());
    }
    Ok(())
}

fn require_reparenting(t: &Transaction<'_>, row: &InodeRow) -> Attempt<()> {
    if row.is_directory() {
        t.require(row, WRITE)
    } else {
        Ok(())
    }
}

/// A file with several names stays within its limits, as it is counted in one place only.
fn refuse_links_across_quotas(
    t: &mut Transaction<'_>,
    from: InodeNumber,
    to: InodeNumber,
    row: &InodeRow,
) -> Attempt<()> {
    let several = !row.is_directory() && row.attributes.links > 1;
    if several && t.quota_directory(from)? != t.quota_directory(to)? {
        return Err(Errno::CrossDevice.into());
    }
    Ok(())
}
