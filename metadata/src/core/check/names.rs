//! Names, attributes and usage.

use std::collections::{BTreeMap, BTreeSet};

use twinshore_protocol::{FileType, InodeNumber};

use super::super::CoreError;
use super::super::acl;
use super::super::keys::{self, KeyReader};
use super::super::names::{ENTRY_BYTES, cookie};
use super::super::values::{BytesRow, EntryRow, InodeRow, Place, TrashRow, UsageRow};
use super::{Check, Names, count, for_each, malformed, row};
use crate::view::View;

impl Check {
    pub(super) fn read_inodes(&mut self, view: &dyn View) -> Result<(), CoreError> {
        for_each(view, keys::INODE, |key, value| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let inode: InodeRow = row(key, value)?;
            self.expect(inode.number() == number, format!("inode {number}"), || {
                "it says it is another".into()
            });
            self.inodes.insert(number, inode);
            Ok(())
        })
    }

    pub(super) fn read_names(&mut self, view: &dyn View) -> Result<(), CoreError> {
        for_each(view, keys::ENTRY, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(directory), Some(stands_at), Some(name)) =
                (reader.inode(), reader.number(), reader.name())
            else {
                return Err(malformed(key));
            };
            let entry: EntryRow = row(key, value)?;
            let place = format!("entry {name:?} of directory {directory}");
            self.expect(stands_at == cookie(&name), &place, || {
                "it stands at a wrong cookie".into()
            });
            match self.inodes.get(&entry.inode).copied() {
                None => self.problem(
                    &place,
                    format!("it names inode {}, which does not exist", entry.inode),
                ),
                Some(inode) => self.expect(inode.attributes.kind == entry.kind, &place, || {
                    "its type is wrong".into()
                }),
            }
            let counts = self.entries.entry(directory).or_default();
            counts.0 += 1;
            counts.1 += u32::from(entry.kind == FileType::Directory);
            self.names
                .entry(entry.inode)
                .or_default()
                .entries
                .insert((directory, name));
            Ok(())
        })?;
        for_each(view, keys::OTHER_NAME, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(inode), Some(directory), Some(name)) = (reader.inode(), reader.inode(), reader.name())
            else {
                return Err(malformed(key));
            };
            self.names
                .entry(inode)
                .or_default()
                .others
                .insert((directory, name));
            Ok(())
        })
    }

    pub(super) fn compare_names(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let directories: Vec<_> = self.entries.keys().copied().collect();
        for directory in directories {
            let sound = self
                .inodes
                .get(&directory)
                .is_some_and(|row| row.is_directory() && row.attributes.links > 0);
            self.expect(sound, format!("directory {directory}"), || {
                "it has entries, but is no directory with a name".into()
            });
        }
        let names = std::mem::take(&mut self.names);
        let nobody = Names::default();
        for inode in names
            .keys()
            .filter(|inode| !self.inodes.contains_key(inode))
            .copied()
            .collect::<Vec<_>>()
        {
            self.problem(format!("inode {inode}"), "names name it, but it does not exist");
        }
        for (number, inode) in self.inodes.clone() {
            let place = format!("inode {number}");
            let names = names.get(&number).unwrap_or(&nobody);
            self.expect(names.others.is_subset(&names.entries), &place, || {
                "a row names it in no directory".into()
            });
            let first: Vec<_> = names.entries.difference(&names.others).collect();
            let links = inode.attributes.links;
            match inode.place {
                Place::Named { parent } if number == InodeNumber::ROOT => {
                    self.expect(parent == number && names.entries.is_empty(), &place, || {
                        "the root has a name".into()
                    });
                }
                Place::Named { .. } if self.is_hidden(number) => {
                    self.expect(names.entries.is_empty(), &place, || {
                        "a hidden directory has a name".into()
                    });
                }
                Place::Named { parent } => {
                    let sound = first.len() == 1 && first.iter().all(|(directory, _)| *directory == parent);
                    self.expect(sound, &place, || {
                        format!("its first name is not one name in directory {parent}")
                    });
                }
                Place::Trash { .. } | Place::Orphan { .. } => {
                    self.expect(names.entries.is_empty() && links == 0, &place, || {
                        "it has a name, but should not".into()
                    });
                }
            }
            if inode.is_directory() {
                let (entries, directories) = self.entries.get(&number).copied().unwrap_or_default();
                let sound = inode.attributes.size_bytes == entries * ENTRY_BYTES;
                self.expect(sound, &place, || {
                    format!("its size does not fit {entries} entries")
                });
                let sound = links == 0 || links == 2 + directories;
                self.expect(sound, &place, || {
                    format!("{links} links do not fit {directories} sub-directories")
                });
            } else {
                let sound = links as usize == names.entries.len();
                self.expect(sound, &place, || {
                    format!("{links} links, but {} names", names.entries.len())
                });
            }
        }
        for_each(view, keys::SYMBOLIC_LINK, |key, value| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let BytesRow(target) = row(key, value)?;
            let sound = (self.inodes.get(&number)).is_some_and(|inode| {
                inode.attributes.kind == FileType::SymbolicLink
                    && inode.attributes.size_bytes == target.len() as u64
            });
            self.expect(sound, format!("symbolic link {number}"), || {
                "its inode does not fit".into()
            });
            Ok(())
        })
    }

    pub(super) fn compare_nameless(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut listed = BTreeSet::new();
        for_each(view, keys::TRASH, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(time), Some(number)) = (reader.time(), reader.inode()) else {
                return Err(malformed(key));
            };
            let _: TrashRow = row(key, value)?;
            let sound = self.is_removed_tree(number)
                || self
                    .inodes
                    .get(&number)
                    .is_some_and(|row| row.place == Place::Trash { removed: time });
            self.expect(sound, format!("trash {number}"), || {
                "its inode is not in the trash since then".into()
            });
            listed.insert(number);
            Ok(())
        })?;
        for_each(view, keys::ORPHAN, |key, _| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let sound = self
                .inodes
                .get(&number)
                .is_some_and(|row| matches!(row.place, Place::Orphan { .. }));
            self.expect(sound, format!("orphan {number}"), || {
                "its inode is no orphan".into()
            });
            listed.insert(number);
            Ok(())
        })?;
        for (number, inode) in self.inodes.clone() {
            let tally = match inode.place {
                Place::Named { .. } => continue,
                Place::Trash { .. } => &mut self.totals.trash,
                Place::Orphan { .. } => &mut self.totals.orphans,
            };
            count(tally, inode.attributes.allocated_bytes);
            self.expect(listed.contains(&number), format!("inode {number}"), || {
                "it is in no list of the nameless".into()
            });
        }
        Ok(())
    }

    pub(super) fn compare_attributes(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut found: BTreeMap<InodeNumber, (u32, bool, bool)> = BTreeMap::new();
        for_each(view, keys::XATTR, |key, _| {
            let mut reader = KeyReader::new(key);
            let number = reader.inode().ok_or_else(|| malformed(key))?;
            let name = reader.rest();
            let sums = found.entry(number).or_default();
            sums.0 += u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
            sums.1 |= name == acl::ACCESS;
            sums.2 |= name == acl::DEFAULT;
            Ok(())
        })?;
        for number in found
            .keys()
            .filter(|number| !self.inodes.contains_key(number))
            .copied()
            .collect::<Vec<_>>()
        {
            self.problem(
                format!("inode {number}"),
                "it has extended attributes, but does not exist",
            );
        }
        for (number, inode) in self.inodes.clone() {
            let counted = found.get(&number).copied().unwrap_or_default();
            let stored = (
                inode.xattr_names_bytes,
                inode.has_access_acl,
                inode.has_default_acl,
            );
            let told = inode.attributes.has_extended_attributes == (stored.0 > 0);
            self.expect(counted == stored && told, format!("inode {number}"), || {
                format!("of its extended attributes it knows {stored:?}, there are {counted:?}")
            });
        }
        Ok(())
    }

    pub(super) fn compare_usage(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut counted: BTreeMap<InodeNumber, (u64, u64)> = BTreeMap::new();
        for (number, inode) in &self.inodes {
            let Place::Named { mut parent } = inode.place else {
                continue;
            };
            if *number == parent {
                continue;
            }
            // Deeper than there are inodes is a loop; the comparison below then fails.
            for _ in 0..=self.inodes.len() {
                let sums = counted.entry(parent).or_default();
                sums.0 += inode.attributes.allocated_bytes;
                sums.1 += 1;
                match self.inodes.get(&parent).map(|row| row.place) {
                    // A root holds itself.
                    Some(Place::Named { parent: next }) if next != parent => parent = next,
                    _ => break,
                }
            }
        }
        let mut quotas = BTreeSet::new();
        for_each(view, keys::QUOTA, |key, _| {
            quotas.insert(KeyReader::new(key).inode().ok_or_else(|| malformed(key))?);
            Ok(())
        })?;
        let mut seen = BTreeSet::new();
        for_each(view, keys::USAGE, |key, value| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let usage: UsageRow = row(key, value)?;
            let place = format!("usage of directory {number}");
            let known = self.inodes.get(&number).copied().filter(InodeRow::is_directory);
            let sound = known.is_some_and(|inode| inode.place == Place::Named { parent: usage.parent });
            self.expect(sound, &place, || {
                "there is no such directory, or it is elsewhere".into()
            });
            let (bytes, inodes) = counted.get(&number).copied().unwrap_or_default();
            let sound = (usage.bytes, usage.inodes) == (bytes, inodes);
            self.expect(sound, &place, || {
                format!("stored {usage:?}, counted {bytes} bytes, {inodes} inodes")
            });
            let sound = usage.limited == quotas.contains(&number);
            self.expect(sound, &place, || "it does not know whether it is limited".into());
            seen.insert(number);
            Ok(())
        })?;
        for (number, inode) in self.inodes.clone() {
            if inode.is_directory() && matches!(inode.place, Place::Named { .. }) {
                self.expect(seen.contains(&number), format!("directory {number}"), || {
                    "it has no usage".into()
                });
            }
        }
        Ok(())
    }
}
