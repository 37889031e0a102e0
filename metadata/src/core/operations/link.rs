//! Another name for an inode.

use twinshore_protocol::{Errno, FileName, InodeNumber, Reply};

use crate::core::keys;
use crate::core::names::LINKS_MAX;
use crate::core::permissions::{EXECUTE, WRITE};
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{EntryRow, Place};

pub fn link(
    t: &mut Transaction<'_>,
    inode: InodeNumber,
    parent: InodeNumber,
    name: &FileName,
) -> Attempt<Reply> {
    let mut row = t.inode(inode)?;
    let directory = t.directory(parent)?;
    if t.entry(parent, name)?.is_some() {
        return Err(Errno::Exists.into());
    }
    t.require(&directory, WRITE | EXECUTE)?;
    if row.is_directory() {
        return Err(Errno::NotPermitted.into());
    }
    let Place::Named { parent: first } = row.place else {
        return Err(Errno::NotFound.into());
    };
    if row.attributes.links >= LINKS_MAX {
        return Err(Errno::TooManyLinks.into());
    }
    // A file is counted in one place; its bytes must not escape the limits of another (as XFS's project quotas have it).
    if t.quota_directory(first)? != t.quota_directory(parent)? {
        return Err(Errno::CrossDevice.into());
    }
    row.attributes.links += 1;
    row.attributes.changed = t.context.now;
    t.put_inode(row);
    t.attributes_changed(inode);
    t.add_entry(
        parent,
        name,
        EntryRow {
            inode,
            kind: row.attributes.kind,
        },
    )?;
    t.mark(keys::other_name(inode, parent, name));
    Ok(Reply::Entry(row.attributes))
}
