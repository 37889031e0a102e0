//! Names in directories.
//!
//! # Invariants
//!
//! * The size of a directory is 32 times the number of its entries; its links are 2 and one for each sub-directory.
//! * The first name of an inode stands only in `D`; its directory is in the inode. Every further name also stands in `N`.
//!   So a file with one name, by far the most frequent, has no row in `N`.
//! * The cookie of a name never changes, so a listing can go on after any change.

use sha2::{Digest, Sha256};
use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Errno, FileName, FileType, InodeNumber};

use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt};
use super::usage::{Change, Limits};
use super::values::{EntryRow, InodeRow, Place, TrashRow};

/// What an entry adds to the size of its directory: arbitrary, but stable.
pub(super) const ENTRY_BYTES: u64 = 32;

/// How many names a file may have (ext4's limit). Directories have none: ext4 lifts it too (`dir_nlink`).
pub(super) const LINKS_MAX: u32 = 65_000;

/// The smallest cookie: 0 begins a listing, and clients use 1 and 2 for `.` and `..`.
const COOKIE_MIN: u64 = 3;

/// Where a name stands in the listing of its directory.
pub fn cookie(name: &FileName) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    let first = digest
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (first >> 1).max(COOKIE_MIN)
}

/// Where an inode goes that loses its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// To the trash, if the volume keeps any.
    Trash,
    /// Away.
    ForGood,
}

pub(super) fn entry_key(directory: InodeNumber, name: &FileName) -> bytes::Bytes {
    keys::entry(directory, cookie(name), name)
}

/// What a directory's entries of a type add to its links.
fn links_of(kind: FileType) -> u32 {
    u32::from(kind == FileType::Directory)
}

impl Transaction<'_> {
    /// A directory that is to be searched or changed.
    pub(super) fn directory(&mut self, number: InodeNumber) -> Attempt<InodeRow> {
        let row = self.find_inode(number)?.ok_or(Errno::NotFound)?;
        if !row.is_directory() {
            return Err(Errno::NotDirectory.into());
        }
        if row.attributes.links == 0 {
            return Err(Errno::NotFound.into());
        }
        Ok(row)
    }

    /// What a name names.
    pub(super) fn entry(&self, directory: InodeNumber, name: &FileName) -> Attempt<Option<EntryRow>> {
        self.get(&entry_key(directory, name))
    }

    /// Writes a name. Whom its inode belongs to is the caller's business.
    pub(super) fn add_entry(
        &mut self,
        directory: InodeNumber,
        name: &FileName,
        entry: EntryRow,
    ) -> Attempt<()> {
        self.put(entry_key(directory, name), &entry);
        let mut row = self.named_inode(directory)?;
        row.attributes.size_bytes += ENTRY_BYTES;
        row.attributes.links += links_of(entry.kind);
        self.entries_changed(row, name);
        Ok(())
    }

    /// Removes a name. What becomes of its inode is the caller's business.
    pub(super) fn remove_entry(
        &mut self,
        directory: InodeNumber,
        name: &FileName,
        entry: EntryRow,
    ) -> Attempt<()> {
        self.remove(entry_key(directory, name));
        let mut row = self.named_inode(directory)?;
        let size = row.attributes.size_bytes.checked_sub(ENTRY_BYTES);
        let links = row.attributes.links.checked_sub(links_of(entry.kind));
        let (Some(size), Some(links)) = (size, links) else {
            return Err(corrupt(
                &keys::inode(directory),
                "a directory counts fewer entries than it has",
            )
            .into());
        };
        (row.attributes.size_bytes, row.attributes.links) = (size, links);
        self.entries_changed(row, name);
        Ok(())
    }

    fn entries_changed(&mut self, mut row: InodeRow, name: &FileName) {
        row.attributes.modified = self.context.now;
        row.attributes.changed = self.context.now;
        self.changed(Invalidation::Entry(row.number(), name.clone()));
        self.attributes_changed(row.number());
        self.put_inode(row);
    }

    /// How much an inode counts in the directory that it belongs to.
    pub(super) fn weight(&mut self, row: &InodeRow) -> Attempt<Change> {
        let below = if row.is_directory() {
            let usage = self.usage(row.number())?;
            Change::plus(usage.bytes, usage.inodes)
        } else {
            Change::default()
        };
        let own = row.attributes.allocated_bytes.cast_signed();
        Ok(Change {
            bytes: below.bytes + own,
            inodes: below.inodes + 1,
        })
    }

    fn named_parent(row: &InodeRow) -> Attempt<InodeNumber> {
        match row.place {
            Place::Named { parent } => Ok(parent),
            Place::Trash { .. } | Place::Orphan { .. } => {
                Err(corrupt(&keys::inode(row.number()), "a name names it, but it has none").into())
            }
        }
    }

    /// Another name of an inode, beside its first.
    fn some_other_name(&self, inode: InodeNumber) -> Attempt<(InodeNumber, FileName)> {
        let prefix = keys::of(keys::OTHER_NAME, inode.0);
        let rows = self.scan_prefix(&prefix, 1)?;
        let name = rows.first().and_then(|(key, _)| {
            let mut reader = KeyReader::new(key);
            reader.inode()?;
            Some((reader.inode()?, reader.name()?))
        });
        Ok(name.ok_or_else(|| {
            corrupt(
                &prefix,
                "an inode with several names lacks the rows of the others",
            )
        })?)
    }

    /// An inode has lost a name, whose entry is already gone. With its last one it goes to the trash, or away. `EBUSY` of a claimed directory.
    pub(super) fn drop_name(
        &mut self,
        inode: InodeNumber,
        directory: InodeNumber,
        name: &FileName,
    ) -> Attempt<InodeRow> {
        let row = self.named_inode(inode)?;
        self.require_unclaimed(&row)?;
        self.lose_name(inode, directory, name, Farewell::Trash)
    }

    /// The same, whatever claims there are.
    pub(super) fn lose_name(
        &mut self,
        inode: InodeNumber,
        directory: InodeNumber,
        name: &FileName,
        farewell: Farewell,
    ) -> Attempt<InodeRow> {
        let mut row = self.named_inode(inode)?;
        let parent = Self::named_parent(&row)?;
        row.attributes.changed = self.context.now;
        self.attributes_changed(inode);
        if row.is_directory() || row.attributes.links <= 1 {
            let weight = self.weight(&row)?;
            self.charge(parent, weight.negated(), Limits::Apply)?;
            if row.is_directory() {
                self.set_usage(inode, None)?;
            }
            row.attributes.links = 0;
            let was = TrashRow {
                parent: directory,
                name: name.clone(),
            };
            return match farewell {
                Farewell::Trash => self.forsake(row, &was),
                Farewell::ForGood => self.orphan(row),
            };
        }
        row.attributes.links -= 1;
        let key = keys::other_name(inode, directory, name);
        if self.exists(&key)? {
            self.remove(key);
        } else {
            // Its first name is gone: the next one takes over, and the directory of that one counts it.
            let (next, next_name) = self.some_other_name(inode)?;
            self.remove(keys::other_name(inode, next, &next_name));
            let weight = self.weight(&row)?;
            self.charge(parent, weight.negated(), Limits::Apply)?;
            self.charge(next, weight, Limits::Ignore)?;
            row.place = Place::Named { parent: next };
        }
        self.put_inode(row);
        Ok(row)
    }

    /// An inode has one of its names elsewhere now; the entries are already changed. `EBUSY` of a claimed directory.
    pub(super) fn move_name(
        &mut self,
        inode: InodeNumber,
        (from, name): (InodeNumber, &FileName),
        (to, new_name): (InodeNumber, &FileName),
    ) -> Attempt<InodeRow> {
        let mut row = self.named_inode(inode)?;
        self.require_unclaimed(&row)?;
        row.attributes.changed = self.context.now;
        self.attributes_changed(inode);
        let other = keys::other_name(inode, from, name);
        if !row.is_directory() && row.attributes.links > 1 && self.exists(&other)? {
            self.remove(other);
            self.mark(keys::other_name(inode, to, new_name));
        } else if from != to {
            let weight = self.weight(&row)?;
            self.charge(from, weight.negated(), Limits::Apply)?;
            if row.is_directory() {
                let mut usage = self.usage(inode)?;
                usage.parent = to;
                self.set_usage(inode, Some(usage))?;
            }
            self.charge(to, weight, Limits::Apply)?;
            row.place = Place::Named { parent: to };
        }
        self.put_inode(row);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_cookie_of_a_name_is_the_head_of_its_digest() {
        // The digest of "abc" in FIPS 180-2 begins with ba7816bf8f01cfea.
        assert_eq!(cookie(&"abc".parse().unwrap()), 0xba78_16bf_8f01_cfea >> 1);
    }
}
