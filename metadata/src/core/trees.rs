//! Whole trees: where they are kept without a name, how they go to the trash and come back, and how they are taken apart.
//!
//! # States
//!
//! A tree that is removed is moved, in one step, into a hidden directory. While it can be restored it has rows in `t` and `H`; then, or at once if nothing
//! is kept, one in `z`, and is taken apart in the background, leaf by leaf, without its parts going to the trash.
//!
//! # Invariants
//!
//! * Two directories have no name: one holds snapshots and copies under way, and counts in the root's usage; the other holds removed trees, and is
//!   the root of a usage of its own. What they hold is named by its inode number.
//! * What is in the second has a row in `t` or in `z`, never both.

use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Attributes, Errno, FileName, FileType, InodeNumber, Reply, Timestamp};

use super::claims::rows::{HiddenRow, TreeRow};
use super::keys::{self, KeyReader};
use super::names::Farewell;
use super::transaction::{Attempt, Transaction, corrupt, decode};
use super::usage::{Change, Limits};
use super::values::{CountersRow, EntryRow, InodeRow, Place, TrashRow, UsageRow};

/// How many entries of a directory are read at a time.
const PAGE: usize = 64;

/// Under which name a hidden directory holds a tree.
pub(super) fn hidden_name(tree: InodeNumber) -> Attempt<FileName> {
    Ok(FileName::new(tree.to_string().into_bytes()).map_err(Errno::from)?)
}

const fn directory_entry(inode: InodeNumber) -> EntryRow {
    EntryRow {
        inode,
        kind: FileType::Directory,
    }
}

impl Transaction<'_> {
    /// A number for an inode that the service itself makes.
    pub(super) fn take_inode_number(&mut self) -> Attempt<InodeNumber> {
        let mut counters: CountersRow = self
            .get(keys::COUNTERS)?
            .ok_or_else(|| corrupt(keys::COUNTERS, "there is no volume"))?;
        let number = InodeNumber(counters.next_inode);
        counters.next_inode += 1;
        self.put(bytes::Bytes::from_static(keys::COUNTERS), &counters);
        Ok(number)
    }

    /// The hidden directories, if anything was ever hidden.
    pub(super) fn find_hidden(&self) -> Attempt<Option<HiddenRow>> {
        self.get(keys::HIDDEN)
    }

    /// `ENOENT` if a directory is in a removed tree, or in a snapshot.
    pub(super) fn require_in_sight(&mut self, directory: InodeNumber) -> Attempt<()> {
        if let Some(HiddenRow { copies, removed }) = self.find_hidden()?
            && (self.is_within(directory, copies)? || self.is_within(directory, removed)?)
        {
            return Err(Errno::NotFound.into());
        }
        Ok(())
    }

    /// The hidden directories.
    pub(super) fn hidden(&mut self) -> Attempt<HiddenRow> {
        if let Some(hidden) = self.find_hidden()? {
            return Ok(hidden);
        }
        let (copies, removed) = (self.take_inode_number()?, self.take_inode_number()?);
        self.put_bare_directory(copies, InodeNumber::ROOT, (0o700, 0, 0))?;
        self.charge(InodeNumber::ROOT, Change::plus(0, 1), Limits::Ignore)?;
        self.put_bare_directory(removed, removed, (0o700, 0, 0))?;
        let hidden = HiddenRow { copies, removed };
        self.put(bytes::Bytes::from_static(keys::HIDDEN), &hidden);
        Ok(hidden)
    }

    /// A new directory that nothing names yet and nothing counts.
    fn put_bare_directory(
        &mut self,
        inode: InodeNumber,
        parent: InodeNumber,
        (mode, user, group): (u16, u32, u32),
    ) -> Attempt<()> {
        let now = self.context.now;
        self.put_inode(InodeRow {
            attributes: Attributes {
                inode,
                kind: FileType::Directory,
                mode,
                links: 2,
                user,
                group,
                device: 0,
                size_bytes: 0,
                allocated_bytes: 0,
                accessed: now,
                modified: now,
                changed: now,
                content_version: self.context.position,
                has_extended_attributes: false,
            },
            place: Place::Named { parent },
            has_access_acl: false,
            has_default_acl: false,
            has_capability: false,
            xattr_names_bytes: 0,
            extents: 0,
            fragmented: false,
        });
        self.set_usage(
            inode,
            Some(UsageRow {
                bytes: 0,
                inodes: 0,
                parent,
                limited: false,
                claimed: 0,
            }),
        )
    }

    /// Makes a directory that the service itself wants, as it is told, whoever may write there.
    pub(super) fn make_bare_directory(
        &mut self,
        parent: InodeNumber,
        name: &FileName,
        owner: (u16, u32, u32),
    ) -> Attempt<InodeNumber> {
        let inode = self.take_inode_number()?;
        self.put_bare_directory(inode, parent, owner)?;
        self.add_entry(parent, name, directory_entry(inode))?;
        self.charge(parent, Change::plus(0, 1), Limits::Apply)?;
        Ok(inode)
    }

    /// Moves a directory with all that is in it, whoever may, whatever claims and limits there are.
    pub(super) fn relocate(
        &mut self,
        tree: InodeNumber,
        (from, name): (InodeNumber, &FileName),
        (to, new_name): (InodeNumber, &FileName),
    ) -> Attempt<()> {
        self.remove_entry(from, name, directory_entry(tree))?;
        self.add_entry(to, new_name, directory_entry(tree))?;
        let mut row = self.named_inode(tree)?;
        let weight = self.weight(&row)?;
        self.charge(from, weight.negated(), Limits::Ignore)?;
        let mut usage = self.usage(tree)?;
        usage.parent = to;
        self.set_usage(tree, Some(usage))?;
        self.charge(to, weight, Limits::Ignore)?;
        row.place = Place::Named { parent: to };
        row.attributes.changed = self.context.now;
        self.put_inode(row);
        self.attributes_changed(tree);
        Ok(())
    }

    /// A tree goes to the trash, or away if the volume keeps nothing.
    pub(super) fn remove_tree(
        &mut self,
        tree: InodeNumber,
        (parent, name): (InodeNumber, &FileName),
    ) -> Attempt<()> {
        if self.format()?.settings.trash_retention_seconds == 0 {
            return self.raze_tree(tree, (parent, name));
        }
        let removed = self.hidden()?.removed;
        self.relocate(tree, (parent, name), (removed, &hidden_name(tree)?))?;
        let now = self.context.now;
        let was = TrashRow {
            parent,
            name: name.clone(),
        };
        self.put(keys::trash(now, tree), &was);
        self.put(keys::tree(tree), &TreeRow(now));
        Ok(())
    }

    /// A tree goes away, in the background.
    pub(super) fn raze_tree(&mut self, tree: InodeNumber, at: (InodeNumber, &FileName)) -> Attempt<()> {
        let removed = self.hidden()?.removed;
        self.relocate(tree, at, (removed, &hidden_name(tree)?))?;
        self.mark(keys::raze(tree));
        Ok(())
    }

    /// Is it a tree in the trash? Since when?
    pub(super) fn tree_in_trash(&self, inode: InodeNumber) -> Attempt<Option<Timestamp>> {
        Ok(self.get::<TreeRow>(&keys::tree(inode))?.map(|row| row.0))
    }

    /// A tree leaves the trash for good.
    pub(super) fn expire_tree(&mut self, removed: Timestamp, tree: InodeNumber) {
        self.remove(keys::trash(removed, tree));
        self.remove(keys::tree(tree));
        self.mark(keys::raze(tree));
    }

    /// A tree has a name again.
    pub(super) fn restore_tree(
        &mut self,
        removed: Timestamp,
        tree: InodeNumber,
        (parent, name): (InodeNumber, &FileName),
    ) -> Attempt<Reply> {
        let hidden = self.hidden()?.removed;
        let row = self.named_inode(tree)?;
        let weight = self.weight(&row)?;
        self.require_room(parent, weight)?;
        self.relocate(tree, (hidden, &hidden_name(tree)?), (parent, name))?;
        self.remove(keys::trash(removed, tree));
        self.remove(keys::tree(tree));
        self.changed(Invalidation::Everything(tree));
        Ok(Reply::Entry(self.named_inode(tree)?.attributes))
    }

    /// Takes pieces of removed trees apart. Tells how many inodes lost a name.
    pub(super) fn raze(&mut self, limit: usize) -> Attempt<usize> {
        if limit == 0 {
            return Ok(0);
        }
        let Some((key, _)) = self.scan(&[keys::RAZE], &[keys::RAZE + 1], 1)?.pop() else {
            return Ok(0);
        };
        let tree = KeyReader::new(&key)
            .inode()
            .ok_or_else(|| corrupt(&key, "malformed key"))?;
        let mut way = vec![(self.hidden()?.removed, hidden_name(tree)?, tree)];
        let mut done = 0;
        while let Some((parent, name, directory)) = way.last().cloned() {
            if done >= limit {
                return Ok(done);
            }
            let page = self.scan_prefix(&keys::of(keys::ENTRY, directory.0), PAGE.min(limit - done))?;
            if page.is_empty() {
                self.remove_entry(parent, &name, directory_entry(directory))?;
                self.lose_name(directory, parent, &name, Farewell::ForGood)?;
                done += 1;
                way.pop();
                continue;
            }
            for (key, value) in page {
                let entry: EntryRow = decode(&key, &value)?;
                let mut reader = KeyReader::new(&key);
                let (Some(_), Some(_), Some(name)) = (reader.inode(), reader.number(), reader.name()) else {
                    return Err(corrupt(&key, "malformed key").into());
                };
                if entry.kind == FileType::Directory {
                    way.push((directory, name, entry.inode));
                    break;
                }
                self.remove_entry(directory, &name, entry)?;
                self.lose_name(entry.inode, directory, &name, Farewell::ForGood)?;
                done += 1;
            }
        }
        self.remove(key);
        Ok(done)
    }
}
