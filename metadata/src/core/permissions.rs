//! Who may do what, as Linux decides it (`fs/namei.c`, `fs/attr.c`, `fs/posix_acl.c`).
//!
//! The kernel has checked with what it had cached; this checks again against the present attributes, for operations
//! that change the tree or an inode. Reading and writing through an open file is not checked again: POSIX checks it at
//! `open`, and the mode may have changed since.

use twinshore_protocol::{Attributes, Caller, Errno, FileType};

use super::acl::{self, Acl};
use super::keys;
use super::transaction::{Attempt, Transaction, corrupt};
use super::values::{BytesRow, InodeRow};

/// Execute, or search a directory.
pub(super) const EXECUTE: u16 = 1;
/// Write.
pub(super) const WRITE: u16 = 2;
/// Read.
pub(super) const READ: u16 = 4;
/// Set-user-id.
pub(super) const SET_USER: u16 = 0o4000;
/// Set-group-id.
pub(super) const SET_GROUP: u16 = 0o2000;
/// Sticky.
pub(super) const STICKY: u16 = 0o1000;
/// Execute by the group.
pub(super) const GROUP_EXECUTE: u16 = 0o010;

/// Is the caller the superuser?
pub(super) fn is_root(caller: &Caller) -> bool {
    caller.user == 0
}

/// Is the caller in the group?
pub(super) fn in_group(caller: &Caller, group: u32) -> bool {
    caller.group == group || caller.groups.contains(&group)
}

/// Owner, or superuser.
pub(super) fn owns(caller: &Caller, attributes: &Attributes) -> bool {
    is_root(caller) || caller.user == attributes.user
}

/// The mode without what a write by somebody else than root clears: set-user-id, and set-group-id if the group may
/// execute (else it is a mark of old mandatory locking).
pub(super) fn without_privileges(mode: u16) -> u16 {
    let set_group = if mode & GROUP_EXECUTE != 0 { SET_GROUP } else { 0 };
    mode & !(SET_USER | set_group)
}

fn permits(caller: &Caller, attributes: &Attributes, acl: Option<&Acl>, wanted: u16) -> bool {
    if is_root(caller) {
        let directory = attributes.kind == FileType::Directory;
        return directory || wanted & EXECUTE == 0 || attributes.mode & 0o111 != 0;
    }
    if caller.user == attributes.user {
        return (attributes.mode >> 6) & wanted == wanted;
    }
    if let Some(acl) = acl {
        return acl.permits(caller, attributes.group, wanted);
    }
    let granted = if in_group(caller, attributes.group) {
        attributes.mode >> 3
    } else {
        attributes.mode
    };
    granted & wanted == wanted
}

impl Transaction<'_> {
    /// May the caller do this to the inode?
    pub(super) fn may(&self, row: &InodeRow, wanted: u16) -> Attempt<bool> {
        let acl = if row.has_access_acl {
            self.access_acl(row)?
        } else {
            None
        };
        Ok(permits(
            self.context.caller,
            &row.attributes,
            acl.as_ref(),
            wanted,
        ))
    }

    /// `EACCES` unless the caller may.
    pub(super) fn require(&self, row: &InodeRow, wanted: u16) -> Attempt<()> {
        if self.may(row, wanted)? {
            Ok(())
        } else {
            Err(Errno::AccessDenied.into())
        }
    }

    /// May the caller remove this name from the directory?
    pub(super) fn require_removal(&self, directory: &InodeRow, victim: &InodeRow) -> Attempt<()> {
        self.require(directory, WRITE | EXECUTE)?;
        let caller = self.context.caller;
        let sticky = directory.attributes.mode & STICKY != 0;
        if sticky && !owns(caller, &directory.attributes) && !owns(caller, &victim.attributes) {
            return Err(Errno::NotPermitted.into());
        }
        Ok(())
    }

    /// `EPERM` unless the caller is the superuser.
    pub(super) fn require_root(&self) -> Attempt<()> {
        if is_root(self.context.caller) {
            Ok(())
        } else {
            Err(Errno::NotPermitted.into())
        }
    }

    /// `EPERM` unless the caller owns the inode.
    pub(super) fn require_owner(&self, row: &InodeRow) -> Attempt<()> {
        if owns(self.context.caller, &row.attributes) {
            Ok(())
        } else {
            Err(Errno::NotPermitted.into())
        }
    }

    /// The access ACL of an inode that has one.
    pub(super) fn access_acl(&self, row: &InodeRow) -> Attempt<Option<Acl>> {
        self.stored_acl(row, acl::ACCESS)
    }

    /// An ACL of an inode.
    pub(super) fn stored_acl(&self, row: &InodeRow, name: &[u8]) -> Attempt<Option<Acl>> {
        let key = keys::xattr(row.number(), name);
        let Some(BytesRow(bytes)) = self.get(&key)? else {
            return Ok(None);
        };
        let acl = Acl::parse(&bytes).map_err(|_| corrupt(&key, "a stored ACL is malformed"))?;
        Ok(Some(acl))
    }

    /// Takes set-user-id, set-group-id and capabilities away.
    pub(super) fn clear_privileges(&mut self, row: &mut InodeRow) {
        if row.attributes.kind != FileType::Directory {
            row.attributes.mode = without_privileges(row.attributes.mode);
            self.clear_capability(row);
        }
    }

    /// Takes them away if somebody else than root changes the content.
    pub(super) fn clear_privileges_of_writer(&mut self, row: &mut InodeRow) {
        if !is_root(self.context.caller) {
            self.clear_privileges(row);
        }
    }
}
