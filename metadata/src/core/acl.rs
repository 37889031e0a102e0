//! POSIX access control lists, in the format of the extended attributes `system.posix_acl_access` and `_default`
//! (`acl(5)`, `linux/posix_acl_xattr.h`): a version, then entries of tag, permissions and id, all little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use twinshore_protocol::{Caller, Errno};

use super::permissions::in_group;

/// The attribute that grants access to the inode.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that a directory's new inodes inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;
const ENTRY_BYTES: usize = 8;

/// Whom an entry is about. The order is the one in which Linux wants entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u16,
}

/// A valid list: one entry each for the owner, the owning group and others, and a mask if anyone else is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads and checks the value of an attribute.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let mut rest = bytes;
        if rest.len() < 4 || rest.get_u32_le() != VERSION {
            return Err(Errno::NotSupported);
        }
        if !rest.len().is_multiple_of(ENTRY_BYTES) {
            return Err(Errno::Invalid);
        }
        let mut entries = Vec::with_capacity(rest.len() / ENTRY_BYTES);
        while rest.has_remaining() {
            let (tag, permissions, id) = (rest.get_u16_le(), rest.get_u16_le(), rest.get_u32_le());
            let tag = match tag {
                0x01 => Tag::Owner,
                0x02 => Tag::User(id),
                0x04 => Tag::OwningGroup,
                0x08 => Tag::Group(id),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return Err(Errno::Invalid),
            };
            if permissions > 7 || matches!(tag, Tag::User(NO_ID) | Tag::Group(NO_ID)) {
                return Err(Errno::Invalid);
            }
            entries.push(Entry { tag, permissions });
        }
        // Linux accepts ids of one tag in any order; sorting makes equal lists equal.
        let order = |entry: &Entry| match entry.tag {
            Tag::Owner => 0,
            Tag::User(_) => 1,
            Tag::OwningGroup => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        };
        if !entries.is_sorted_by_key(order) {
            return Err(Errno::Invalid);
        }
        entries.sort_by_key(|entry| entry.tag);
        if entries.windows(2).any(|pair| pair[0].tag == pair[1].tag) {
            return Err(Errno::Invalid);
        }
        let acl = Self(entries);
        let has = |tag| acl.find(tag).is_some();
        let extended = acl
            .0
            .iter()
            .any(|entry| matches!(entry.tag, Tag::User(_) | Tag::Group(_)));
        if has(Tag::Owner) && has(Tag::OwningGroup) && has(Tag::Other) && (has(Tag::Mask) || !extended) {
            Ok(acl)
        } else {
            Err(Errno::Invalid)
        }
    }

    /// The value of the attribute.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 + self.0.len() * ENTRY_BYTES);
        bytes.put_u32_le(VERSION);
        for entry in &self.0 {
            let (tag, id) = match entry.tag {
                Tag::Owner => (0x01, NO_ID),
                Tag::User(id) => (0x02, id),
                Tag::OwningGroup => (0x04, NO_ID),
                Tag::Group(id) => (0x08, id),
                Tag::Mask => (0x10, NO_ID),
                Tag::Other => (0x20, NO_ID),
            };
            bytes.put_u16_le(tag);
            bytes.put_u16_le(entry.permissions);
            bytes.put_u32_le(id);
        }
        bytes.freeze()
    }

    fn find(&self, tag: Tag) -> Option<u16> {
        self.0
            .iter()
            .find(|entry| entry.tag == tag)
            .map(|entry| entry.permissions)
    }

    fn entry(&mut self, tag: Tag) -> Option<&mut u16> {
        self.0
            .iter_mut()
            .find(|entry| entry.tag == tag)
            .map(|entry| &mut entry.permissions)
    }

    fn group_class(&self) -> Tag {
        if self.find(Tag::Mask).is_some() {
            Tag::Mask
        } else {
            Tag::OwningGroup
        }
    }

    /// The nine permission bits that stand for this list: the group's are the mask, if there is one.
    pub(super) fn mode(&self) -> u16 {
        let part = |tag| self.find(tag).unwrap_or_default();
        part(Tag::Owner) << 6 | part(self.group_class()) << 3 | part(Tag::Other)
    }

    /// Does the list say no more than a mode can?
    pub(super) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// `chmod`: the mode's bits go to the owner, the mask (or the owning group), and others.
    pub(super) fn set_mode(&mut self, mode: u16) {
        let class = self.group_class();
        for (tag, permissions) in [(Tag::Owner, mode >> 6), (class, mode >> 3), (Tag::Other, mode)] {
            if let Some(entry) = self.entry(tag) {
                *entry = permissions & 7;
            }
        }
    }

    /// The access list and the mode of a new inode, from the default list of its directory and the mode asked for.
    pub(super) fn inherited(&self, mode: u16) -> (Self, u16) {
        let mut acl = self.clone();
        let class = acl.group_class();
        for (tag, permissions) in [(Tag::Owner, mode >> 6), (class, mode >> 3), (Tag::Other, mode)] {
            if let Some(entry) = acl.entry(tag) {
                *entry &= permissions & 7;
            }
        }
        let mode = (mode & !0o777) | acl.mode();
        (acl, mode)
    }

    /// Whether the list grants this to a caller who is not the owner.
    pub(super) fn permits(&self, caller: &Caller, owning_group: u32, wanted: u16) -> bool {
        let mask = self.find(Tag::Mask).unwrap_or(7);
        if let Some(permissions) = self.find(Tag::User(caller.user)) {
            return permissions & mask & wanted == wanted;
        }
        let mut in_any = false;
        for entry in &self.0 {
            let member = match entry.tag {
                Tag::OwningGroup => in_group(caller, owning_group),
                Tag::Group(id) => in_group(caller, id),
                Tag::Owner | Tag::User(_) | Tag::Mask | Tag::Other => false,
            };
            if member {
                if entry.permissions & mask & wanted == wanted {
                    return true;
                }
                in_any = true;
            }
        }
        !in_any && self.find(Tag::Other).unwrap_or_default() & wanted == wanted
    }
}
