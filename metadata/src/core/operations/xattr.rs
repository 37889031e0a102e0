//! Extended attributes, with the rules of each namespace (`xattr(7)`), and POSIX ACLs, which live in them.

use bytes::Bytes;
use twinshore_protocol::operation::SetMode;
use twinshore_protocol::reply::XattrName;
use twinshore_protocol::{Errno, FileType, InodeNumber, Reply};

use super::create::name_bytes;
use crate::core::acl::{self, Acl};
use crate::core::keys;
use crate::core::permissions::{SET_GROUP, STICKY, WRITE, in_group, is_root, owns};
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{BytesRow, InodeRow};

/// The longest value (`XATTR_SIZE_MAX`).
const VALUE_MAX_BYTES: usize = 64 << 10;
/// The longest name (`XATTR_NAME_MAX`).
const NAME_MAX_BYTES: usize = 255;
/// The longest list of names (`XATTR_LIST_MAX`): more could be set, but never listed.
const NAMES_MAX_BYTES: u32 = 64 << 10;
/// File capabilities: they go when somebody writes.
const CAPABILITY: &[u8] = b"security.capability";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    AccessAcl,
    DefaultAcl,
}

fn namespace(name: &[u8]) -> Attempt<Namespace> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(Errno::OutOfRange.into());
    }
    if name == acl::ACCESS {
        return Ok(Namespace::AccessAcl);
    }
    if name == acl::DEFAULT {
        return Ok(Namespace::DefaultAcl);
    }
    for (prefix, namespace) in [
        (&b"user."[..], Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
    ] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return if rest.is_empty() {
                Err(Errno::Invalid.into())
            } else {
                Ok(namespace)
            };
        }
    }
    Err(Errno::NotSupported.into())
}

fn takes_user_attributes(row: &InodeRow) -> bool {
    matches!(row.attributes.kind, FileType::Regular | FileType::Directory)
}

pub fn get(t: &mut Transaction<'_>, inode: InodeNumber, name: &Bytes) -> Attempt<Reply> {
    let row = t.inode(inode)?;
    match namespace(name)? {
        Namespace::User if !takes_user_attributes(&row) => return Err(Errno::NoData.into()),
        Namespace::Trusted if !is_root(t.context.caller) => return Err(Errno::NoData.into()),
        _ => {}
    }
    if row.xattr_names_bytes == 0 {
        return Err(Errno::NoData.into());
    }
    let BytesRow(value) = t.get(&keys::xattr(inode, name))?.ok_or(Errno::NoData)?;
    Ok(Reply::Bytes(value))
}

pub fn list(t: &mut Transaction<'_>, inode: InodeNumber) -> Attempt<Reply> {
    let row = t.inode(inode)?;
    if row.xattr_names_bytes == 0 {
        return Ok(Reply::Names(Vec::new()));
    }
    let prefix = keys::of(keys::XATTR, inode.0);
    let root = is_root(t.context.caller);
    let names = (t.scan_prefix(&prefix, usize::MAX)?.into_iter())
        .map(|(key, _)| Bytes::copy_from_slice(&key[prefix.len()..]))
        .filter(|name| root || !name.starts_with(b"trusted."))
        .map(XattrName)
        .collect();
    Ok(Reply::Names(names))
}

fn require_change(t: &Transaction<'_>, row: &InodeRow, namespace: Namespace) -> Attempt<()> {
    let caller = t.context.caller;
    match namespace {
        Namespace::User => {
            if !takes_user_attributes(row) {
                return Err(Errno::NotPermitted.into());
            }
            // Else anyone could fill a shared directory's attributes.
            if row.is_directory() && row.attributes.mode & STICKY != 0 && !owns(caller, &row.attributes) {
                return Err(Errno::NotPermitted.into());
            }
            t.require(row, WRITE)
        }
        Namespace::Trusted | Namespace::Security => t.require_root(),
        Namespace::AccessAcl | Namespace::DefaultAcl => {
            if row.attributes.kind == FileType::SymbolicLink {
                return Err(Errno::NotSupported.into());
            }
            t.require_owner(row)
        }
    }
}

pub fn set(
    t: &mut Transaction<'_>,
    inode: InodeNumber,
    name: &Bytes,
    value: &Bytes,
    mode: SetMode,
) -> Attempt<Reply> {
    let mut row = t.inode(inode)?;
    let namespace = namespace(name)?;
    if value.len() > VALUE_MAX_BYTES {
        return Err(Errno::TooBig.into());
    }
    require_change(t, &row, namespace)?;
    match namespace {
        Namespace::AccessAcl => set_access_acl(t, &mut row, value)?,
        Namespace::DefaultAcl => set_default_acl(t, &mut row, value)?,
        Namespace::User | Namespace::Trusted | Namespace::Security => {
            let exists = t.exists(&keys::xattr(inode, name))?;
            match (mode, exists) {
                (SetMode::Create, true) => return Err(Errno::Exists.into()),
                (SetMode::Replace, false) => return Err(Errno::NoData.into()),
                _ => {}
            }
            store(t, &mut row, name, Some(value.clone()))?;
        }
    }
    changed(t, row);
    Ok(Reply::Done)
}

pub fn remove(t: &mut Transaction<'_>, inode: InodeNumber, name: &Bytes) -> Attempt<Reply> {
    let mut row = t.inode(inode)?;
    let namespace = namespace(name)?;
    require_change(t, &row, namespace)?;
    if !t.exists(&keys::xattr(inode, name))? {
        return Err(Errno::NoData.into());
    }
    store(t, &mut row, name, None)?;
    changed(t, row);
    Ok(Reply::Done)
}

fn changed(t: &mut Transaction<'_>, mut row: InodeRow) {
    row.attributes.changed = t.context.now;
    t.put_inode(row);
    t.attributes_changed(row.number());
}

/// Writes or removes an attribute, and what the inode knows of it.
fn store(t: &mut Transaction<'_>, row: &mut InodeRow, name: &[u8], value: Option<Bytes>) -> Attempt<()> {
    let key = keys::xattr(row.number(), name);
    let existed = t.exists(&key)?;
    let exists = value.is_some();
    match (existed, exists) {
        (false, true) => {
            row.count_xattr_names(row.xattr_names_bytes + name_bytes(name));
            if row.xattr_names_bytes > NAMES_MAX_BYTES {
                return Err(Errno::NoSpace.into());
            }
        }
        (true, false) => row.count_xattr_names(row.xattr_names_bytes.saturating_sub(name_bytes(name))),
        (true, true) | (false, false) => {}
    }
    match value {
        Some(value) => t.put(key, &BytesRow(value)),
        None if existed => t.remove(key),
        None => {}
    }
    match name {
        acl::ACCESS => row.has_access_acl = exists,
        acl::DEFAULT => row.has_default_acl = exists,
        CAPABILITY => row.has_capability = exists,
        _ => {}
    }
    Ok(())
}

/// The list's classes become the mode; a list that says no more than a mode is not kept.
fn set_access_acl(t: &mut Transaction<'_>, row: &mut InodeRow, value: &[u8]) -> Attempt<()> {
    if is_empty_acl(value) {
        return store(t, row, acl::ACCESS, None);
    }
    let list = Acl::parse(value)?;
    let caller = t.context.caller;
    row.attributes.mode = (row.attributes.mode & !0o777) | list.mode();
    if !is_root(caller) && !in_group(caller, row.attributes.group) {
        row.attributes.mode &= !SET_GROUP;
    }
    let kept = (!list.is_mode()).then(|| list.to_bytes());
    store(t, row, acl::ACCESS, kept)
}

fn set_default_acl(t: &mut Transaction<'_>, row: &mut InodeRow, value: &[u8]) -> Attempt<()> {
    if is_empty_acl(value) {
        return store(t, row, acl::DEFAULT, None);
    }
    if !row.is_directory() {
        return Err(Errno::AccessDenied.into());
    }
    let list = Acl::parse(value)?;
    store(t, row, acl::DEFAULT, Some(list.to_bytes()))
}

/// No value, or a header without entries, removes the list.
fn is_empty_acl(value: &[u8]) -> bool {
    value.is_empty() || value == [2, 0, 0, 0]
}

impl Transaction<'_> {
    /// Takes file capabilities away.
    pub(in crate::core) fn clear_capability(&mut self, row: &mut InodeRow) {
        if row.has_capability {
            self.remove(keys::xattr(row.number(), CAPABILITY));
            row.has_capability = false;
            row.count_xattr_names(row.xattr_names_bytes.saturating_sub(name_bytes(CAPABILITY)));
        }
    }
}
