//! Finding and looking at inodes. Whether the caller may search is the kernel's check: nothing changes here.

use twinshore_protocol::{Errno, FileName, FileType, InodeNumber, Reply};

use crate::core::keys;
use crate::core::transaction::{Attempt, Transaction, corrupt};
use crate::core::values::BytesRow;

pub fn lookup(t: &mut Transaction<'_>, parent: InodeNumber, name: &FileName) -> Attempt<Reply> {
    t.directory(parent)?;
    let entry = t.entry(parent, name)?.ok_or(Errno::NotFound)?;
    Ok(Reply::Entry(t.named_inode(entry.inode)?.attributes))
}

pub fn get_attributes(t: &mut Transaction<'_>, inode: InodeNumber) -> Attempt<Reply> {
    Ok(Reply::Attributes(t.inode(inode)?.attributes))
}

pub fn read_link(t: &mut Transaction<'_>, inode: InodeNumber) -> Attempt<Reply> {
    if t.inode(inode)?.attributes.kind != FileType::SymbolicLink {
        return Err(Errno::Invalid.into());
    }
    let key = keys::symbolic_link(inode);
    let BytesRow(target) = t
        .get(&key)?
        .ok_or_else(|| corrupt(&key, "a symbolic link has no target"))?;
    Ok(Reply::Bytes(target))
}
