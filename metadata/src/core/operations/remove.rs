//! Taking names away.

use twinshore_protocol::{Errno, FileName, FileType, InodeNumber, Reply};

use crate::core::transaction::{Attempt, Transaction};

pub fn unlink(t: &mut Transaction<'_>, parent: InodeNumber, name: &FileName) -> Attempt<Reply> {
    remove(t, parent, name, false)
}

pub fn remove_directory(t: &mut Transaction<'_>, parent: InodeNumber, name: &FileName) -> Attempt<Reply> {
    remove(t, parent, name, true)
}

fn remove(t: &mut Transaction<'_>, parent: InodeNumber, name: &FileName, directory: bool) -> Attempt<Reply> {
    let holder = t.directory(parent)?;
    let entry = t.entry(parent, name)?.ok_or(Errno::NotFound)?;
    let victim = t.named_inode(entry.inode)?;
    t.require_removal(&holder, &victim)?;
    match (directory, entry.kind == FileType::Directory) {
        (true, false) => return Err(Errno::NotDirectory.into()),
        (false, true) => return Err(Errno::IsDirectory.into()),
        (true, true) if victim.attributes.size_bytes > 0 => return Err(Errno::NotEmpty.into()),
        _ => {}
    }
    t.remove_entry(parent, name, entry)?;
    let attributes = t.drop_name(entry.inode, parent, name)?.attributes;
    let parent = t.named_inode(parent)?.attributes;
    Ok(Reply::Removed { attributes, parent })
}
