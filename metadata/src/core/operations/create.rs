//! Making inodes: mode, owner and ACL as Linux gives them (`inode_init_owner`, `posix_acl_create`).

use bytes::Bytes;
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::{Attributes, Errno, FileName, FileType, InodeNumber, Reply};

use super::attributes::truncate_existing;
use crate::core::acl;
use crate::core::keys;
use crate::core::permissions::{EXECUTE, GROUP_EXECUTE, READ, SET_GROUP, WRITE, in_group, is_root};
use crate::core::transaction::{Attempt, Transaction};
use crate::core::usage::{Change, Limits};
use crate::core::values::{BytesRow, EntryRow, InodeRow, Place, UsageRow};

/// The longest target of a symbolic link (`PATH_MAX` without the NUL).
const TARGET_MAX_BYTES: usize = 4095;

/// What is to be made.
struct Making {
    number: InodeNumber,
    kind: FileType,
    /// As the program asked.
    mode: u16,
    umask: u16,
    device: u32,
    size_bytes: u64,
}

fn make(t: &mut Transaction<'_>, parent: InodeNumber, name: &FileName, making: &Making) -> Attempt<InodeRow> {
    let directory = t.directory(parent)?;
    // Linux finds out that the name exists before it looks whether the caller may write.
    if t.entry(parent, name)?.is_some() {
        return Err(Errno::Exists.into());
    }
    t.require(&directory, WRITE | EXECUTE)?;
    t.require_new_inode(making.number)?;

    let caller = t.context.caller;
    let inherits_group = directory.attributes.mode & SET_GROUP != 0;
    let group = if inherits_group {
        directory.attributes.group
    } else {
        caller.group
    };
    let is_directory = making.kind == FileType::Directory;
    let mut mode = making.mode & if is_directory { 0o1777 } else { 0o7777 };
    if is_directory && inherits_group {
        mode |= SET_GROUP;
    }
    let foreign_group = !is_directory && !is_root(caller) && !in_group(caller, group);
    if foreign_group && mode & (SET_GROUP | GROUP_EXECUTE) == SET_GROUP | GROUP_EXECUTE {
        // Else anyone could make a program that runs as the group of a shared directory.
        mode &= !SET_GROUP;
    }
    let now = t.context.now;
    let mut row = InodeRow {
        attributes: Attributes {
            inode: making.number,
            kind: making.kind,
            mode,
            links: if is_directory { 2 } else { 1 },
            user: caller.user,
            group,
            device: making.device,
            size_bytes: making.size_bytes,
            allocated_bytes: 0,
            accessed: now,
            modified: now,
            changed: now,
            content_version: t.context.position,
            has_extended_attributes: false,
        },
        place: Place::Named { parent },
        has_access_acl: false,
        has_default_acl: false,
        has_capability: false,
        xattr_names_bytes: 0,
        extents: 0,
        fragmented: false,
    };
    inherit_acl(t, &directory, &mut row, making.umask)?;
    if is_directory {
        t.set_usage(
            making.number,
            Some(UsageRow {
                bytes: 0,
                inodes: 0,
                parent,
                limited: false,
                claimed: 0,
            }),
        )?;
    }
    t.put_inode(row);
    t.add_entry(
        parent,
        name,
        EntryRow {
            inode: making.number,
            kind: making.kind,
        },
    )?;
    t.charge(parent, Change { bytes: 0, inodes: 1 }, Limits::Apply)?;
    Ok(row)
}

/// The default ACL of the directory, if it has one, takes the place of the umask.
fn inherit_acl(t: &mut Transaction<'_>, directory: &InodeRow, row: &mut InodeRow, umask: u16) -> Attempt<()> {
    if row.attributes.kind == FileType::SymbolicLink {
        return Ok(());
    }
    let default = if directory.has_default_acl {
        t.stored_acl(directory, acl::DEFAULT)?
    } else {
        None
    };
    let Some(default) = default else {
        row.attributes.mode &= !(umask & 0o777);
        return Ok(());
    };
    let (access, mode) = default.inherited(row.attributes.mode);
    row.attributes.mode = mode;
    if !access.is_mode() {
        t.put(
            keys::xattr(row.number(), acl::ACCESS),
            &BytesRow(access.to_bytes()),
        );
        row.has_access_acl = true;
        row.count_xattr_names(row.xattr_names_bytes + name_bytes(acl::ACCESS));
    }
    if row.is_directory() {
        t.put(
            keys::xattr(row.number(), acl::DEFAULT),
            &BytesRow(default.to_bytes()),
        );
        row.has_default_acl = true;
        row.count_xattr_names(row.xattr_names_bytes + name_bytes(acl::DEFAULT));
    }
    Ok(())
}

/// What a name adds to the list of names of an inode: itself and a NUL.
pub fn name_bytes(name: &[u8]) -> u32 {
    u32::try_from(name.len() + 1).unwrap_or(u32::MAX)
}

pub fn make_node(
    t: &mut Transaction<'_>,
    parent: InodeNumber,
    name: &FileName,
    new: NewInode,
    kind: FileType,
    device: u32,
) -> Attempt<Reply> {
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    match kind {
        FileType::Directory => return Err(Errno::NotPermitted.into()),
        FileType::SymbolicLink => return Err(Errno::Invalid.into()),
        FileType::Regular | FileType::Fifo | FileType::Socket => {}
        FileType::CharacterDevice | FileType::BlockDevice => {
            // Anyone may make the character device 0:0, the whiteout of overlay file systems.
            let whiteout = kind == FileType::CharacterDevice && device == 0;
            if !whiteout && !is_root(t.context.caller) && t.entry(parent, name)?.is_none() {
                return Err(Errno::NotPermitted.into());
            }
        }
    }
    let NewInode {
        inode: number,
        mode,
        umask,
    } = new;
    let device = if is_device { device } else { 0 };
    let row = make(
        t,
        parent,
        name,
        &Making {
            number,
            kind,
            mode,
            umask,
            device,
            size_bytes: 0,
        },
    )?;
    Ok(Reply::Entry(row.attributes))
}

pub fn make_directory(
    t: &mut Transaction<'_>,
    parent: InodeNumber,
    name: &FileName,
    new: NewInode,
) -> Attempt<Reply> {
    let NewInode {
        inode: number,
        mode,
        umask,
    } = new;
    let making = Making {
        number,
        kind: FileType::Directory,
        mode,
        umask,
        device: 0,
        size_bytes: 0,
    };
    Ok(Reply::Entry(make(t, parent, name, &making)?.attributes))
}

pub fn symbolic_link(
    t: &mut Transaction<'_>,
    parent: InodeNumber,
    name: &FileName,
    number: InodeNumber,
    target: &Bytes,
) -> Attempt<Reply> {
    if target.is_empty() {
        return Err(Errno::NotFound.into());
    }
    if target.len() > TARGET_MAX_BYTES {
        return Err(Errno::NameTooLong.into());
    }
    let kind = FileType::SymbolicLink;
    let making = Making {
        number,
        kind,
        mode: 0o777,
        umask: 0,
        device: 0,
        size_bytes: target.len() as u64,
    };
    let row = make(t, parent, name, &making)?;
    t.put(keys::symbolic_link(number), &BytesRow(target.clone()));
    Ok(Reply::Entry(row.attributes))
}

/// Finds or makes a regular file.
///
/// The kernel sends this when it believes that the name does not exist. If somebody else made it meanwhile, the kernel
/// has not checked whether the caller may open it, nor does the operation tell for what. So a caller who may both read
/// and write gets it; anyone else `ESTALE`, at which the kernel looks the name up again and checks for itself. The same
/// where the name is neither a regular file nor a directory.
pub fn create(
    t: &mut Transaction<'_>,
    parent: InodeNumber,
    name: &FileName,
    new: NewInode,
    exclusive: bool,
    truncate: bool,
) -> Attempt<Reply> {
    t.directory(parent)?;
    let Some(entry) = t.entry(parent, name)? else {
        let NewInode {
            inode: number,
            mode,
            umask,
        } = new;
        let making = Making {
            number,
            kind: FileType::Regular,
            mode,
            umask,
            device: 0,
            size_bytes: 0,
        };
        let attributes = make(t, parent, name, &making)?.attributes;
        return Ok(Reply::Created {
            attributes,
            new: true,
            private: false,
        });
    };
    if exclusive {
        return Err(Errno::Exists.into());
    }
    match entry.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::IsDirectory.into()),
        _ => return Err(Errno::Stale.into()),
    }
    let mut row = t.named_inode(entry.inode)?;
    if !t.may(&row, READ | WRITE)? {
        return Err(Errno::Stale.into());
    }
    if truncate {
        truncate_existing(t, &mut row)?;
    }
    Ok(Reply::Created {
        attributes: row.attributes,
        new: false,
        private: false,
    })
}
