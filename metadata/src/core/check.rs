//! Does the state hold together? Every invariant that spans keys, checked from the keys alone (`twinshore fsck`, the
//! simulation, the tests of the core).
//!
//! It reads everything once and keeps in memory what it has to compare: some hundred bytes for each inode and object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use minicbor::Decode;
use twinshore_protocol::{FileName, FileType, InodeNumber, ObjectId, Position, Side};

use super::CoreError;
use super::keys::{self, KeyReader};
use super::names::{ENTRY_BYTES, cookie};
use super::transaction::{decode, read};
use super::values::{
    BytesRow, CountersRow, EntryRow, ExtentRow, InlineRow, InodeRow, InodeSpan, Life, ObjectRow, OwedRow,
    Place, SessionRow, SourceRow, Tally, TotalsRow, TrashRow, UsageRow,
};
use super::{acl, volume};
use crate::view::View;

/// A contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a kind of row and its key, readable.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// How many rows are read at a time.
const PAGE: usize = 1024;

#[derive(Default)]
struct Names {
    /// Directory and name of each entry.
    entries: BTreeSet<(InodeNumber, FileName)>,
    others: BTreeSet<(InodeNumber, FileName)>,
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
    inodes: BTreeMap<InodeNumber, InodeRow>,
    names: BTreeMap<InodeNumber, Names>,
    entries: BTreeMap<InodeNumber, (u64, u32)>,
    /// Bytes and number of the extents of each inode.
    allocated: BTreeMap<InodeNumber, (u64, u64)>,
    live: BTreeMap<ObjectId, u64>,
    /// The files that name an object.
    named_by: BTreeMap<ObjectId, InodeSpan>,
    sparse: BTreeSet<ObjectId>,
    inline: BTreeMap<(Position, InodeNumber, u64), u64>,
    objects: BTreeMap<ObjectId, ObjectRow>,
    owed: BTreeMap<(Side, ObjectId), Position>,
    dead: BTreeMap<ObjectId, Position>,
    deletions: BTreeSet<(Side, ObjectId)>,
    totals: TotalsRow,
}

/// All contradictions of the state: none, if it is sound. An empty view is.
pub fn consistency(view: &dyn View) -> Result<Vec<Problem>, CoreError> {
    let Some(format) = volume::format(view)? else {
        return Ok(Vec::new());
    };
    let mut check = Check::default();
    check.read_inodes(view)?;
    check.read_names(view)?;
    check.compare_names(view)?;
    check.compare_nameless(view)?;
    check.compare_extents(view)?;
    check.compare_attributes(view)?;
    check.compare_usage(view)?;
    check.read_objects(view)?;
    check.compare_objects(format.settings.target.is_some(), volume::is_backfilling(view)?);
    check.compare_sessions(view)?;
    let stored = volume::totals(view)?;
    if stored != check.totals {
        let what = format!("stored {stored:?}, counted {:?}", check.totals);
        check.problem("totals", what);
    }
    Ok(check.problems)
}

fn for_each(
    view: &dyn View,
    prefix: u8,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<(), CoreError>,
) -> Result<(), CoreError> {
    let mut start = Bytes::copy_from_slice(&[prefix]);
    loop {
        let page = view.scan(&start, &[prefix + 1], PAGE)?;
        for (key, value) in &page {
            visit(key, value)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => start = keys::after(last),
            _ => return Ok(()),
        }
    }
}

fn row<T: for<'b> Decode<'b, ()>>(key: &[u8], value: &[u8]) -> Result<T, CoreError> {
    decode(key, value)
}

fn malformed(key: &[u8]) -> CoreError {
    super::transaction::corrupt(key, "malformed key")
}

impl Check {
    fn problem(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        self.problems.push(Problem {
            place: place.to_string(),
            what: what.into(),
        });
    }

    fn expect(&mut self, holds: bool, place: impl fmt::Display, what: impl FnOnce() -> String) {
        if !holds {
            self.problem(place, what());
        }
    }

    fn read_inodes(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    fn read_names(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    fn compare_names(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    fn compare_nameless(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut listed = BTreeSet::new();
        for_each(view, keys::TRASH, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(time), Some(number)) = (reader.time(), reader.inode()) else {
                return Err(malformed(key));
            };
            let _: TrashRow = row(key, value)?;
            let sound = self
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

    fn compare_extents(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut before: (InodeNumber, u64) = (InodeNumber(0), 0);
        for_each(view, keys::EXTENT, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(number), Some(end)) = (reader.inode(), reader.number()) else {
                return Err(malformed(key));
            };
            let ExtentRow { length, source } = row(key, value)?;
            let place = format!("extent of inode {number} that ends at {end}");
            let start = end.saturating_sub(length);
            let overlaps = before.0 == number && start < before.1;
            self.expect(0 < length && length <= end && !overlaps, &place, || {
                "it overlaps, or its length is wrong".into()
            });
            before = (number, end);
            let allocated = self.allocated.entry(number).or_default();
            *allocated = (allocated.0 + length, allocated.1 + 1);
            let size = self
                .inodes
                .get(&number)
                .map(|inode| (inode.attributes.kind, inode.attributes.size_bytes));
            match source {
                SourceRow::Object { object, .. } => {
                    *self.live.entry(object).or_default() += length;
                    let span = InodeSpan::with(self.named_by.get(&object).copied(), number);
                    self.named_by.insert(object, span);
                }
                SourceRow::Inline { bytes, position, .. } => {
                    self.expect(bytes.len() as u64 == length, &place, || {
                        "it has other bytes than its length".into()
                    });
                    self.inline.insert((position, number, end), length);
                }
                SourceRow::Reserved => {
                    let sound = size.is_some_and(|(kind, _)| kind == FileType::Regular);
                    self.expect(sound, &place, || "no regular file has it".into());
                    return Ok(());
                }
            }
            let sound = size.is_some_and(|(kind, size)| kind == FileType::Regular && end <= size);
            self.expect(sound, &place, || {
                "no regular file has it, or it lies beyond the end".into()
            });
            Ok(())
        })?;
        for (number, inode) in self.inodes.clone() {
            let counted = self.allocated.get(&number).copied().unwrap_or_default();
            let stored = (inode.attributes.allocated_bytes, inode.extents);
            self.expect(counted == stored, format!("inode {number}"), || {
                format!("bytes and number of its extents: stored {stored:?}, counted {counted:?}")
            });
            let listed = view.get(&keys::fragmented(number))?.is_some();
            let sound = listed == inode.is_fragmented() && listed == inode.fragmented;
            self.expect(sound, format!("inode {number}"), || {
                format!("it has {} extents, listed as fragmented: {listed}", inode.extents)
            });
        }
        for_each(view, keys::FRAGMENTED, |key, _| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            self.totals.fragmented += 1;
            let known = self.inodes.contains_key(&number);
            self.expect(known, format!("inode {number}"), || {
                "listed as fragmented, but it does not exist".into()
            });
            Ok(())
        })?;
        let mut inline = std::mem::take(&mut self.inline);
        for_each(view, keys::INLINE, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(position), Some(number), Some(end)) =
                (reader.number(), reader.inode(), reader.number())
            else {
                return Err(malformed(key));
            };
            let InlineRow { length, .. } = row(key, value)?;
            count(&mut self.totals.inline, length);
            let extent = inline.remove(&(Position(position), number, end));
            self.expect(
                extent == Some(length),
                format!("inline extent of inode {number}"),
                || "no extent fits it".into(),
            );
            Ok(())
        })?;
        for (_, number, _) in inline.into_keys() {
            self.problem(
                format!("inode {number}"),
                "an inline extent is not listed: a watermark could pass it",
            );
        }
        Ok(())
    }

    fn compare_attributes(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    fn compare_usage(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut counted: BTreeMap<InodeNumber, (u64, u64)> = BTreeMap::new();
        for (number, inode) in &self.inodes {
            let Place::Named { mut parent } = inode.place else {
                continue;
            };
            if *number == InodeNumber::ROOT {
                continue;
            }
            // Deeper than there are inodes is a loop; the comparison below then fails.
            for _ in 0..=self.inodes.len() {
                let sums = counted.entry(parent).or_default();
                sums.0 += inode.attributes.allocated_bytes;
                sums.1 += 1;
                if parent == InodeNumber::ROOT {
                    break;
                }
                match self.inodes.get(&parent).map(|row| row.place) {
                    Some(Place::Named { parent: next }) => parent = next,
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

    fn read_objects(&mut self, view: &dyn View) -> Result<(), CoreError> {
        for_each(view, keys::OBJECT, |key, value| {
            let id = KeyReader::new(key).object().ok_or_else(|| malformed(key))?;
            self.objects.insert(id, row(key, value)?);
            Ok(())
        })?;
        for_each(view, keys::SPARSE, |key, _| {
            let id = KeyReader::new(key).object().ok_or_else(|| malformed(key))?;
            let unnamed = self.objects.get(&id).map_or(0, ObjectRow::sparse_bytes);
            self.expect(unnamed > 0, format!("object {id}"), || {
                "listed as sparse, but it is not".into()
            });
            count(&mut self.totals.sparse, unnamed);
            self.sparse.insert(id);
            Ok(())
        })?;
        for_each(view, keys::DEAD, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(position), Some(id)) = (reader.number(), reader.object()) else {
                return Err(malformed(key));
            };
            self.dead.insert(id, Position(position));
            Ok(())
        })?;
        for_each(view, keys::DELETION, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(side), Some(id)) = (reader.side(), reader.object()) else {
                return Err(malformed(key));
            };
            self.totals.deletions[side as usize] += 1;
            self.deletions.insert((side, id));
            Ok(())
        })?;
        for_each(view, keys::OWED, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(side), Some(position), Some(id)) = (reader.side(), reader.number(), reader.object())
            else {
                return Err(malformed(key));
            };
            let owed: OwedRow = row(key, value)?;
            count(&mut self.totals.owed[side as usize], owed.stored_bytes);
            let reverse: Option<Position> = read(view, &keys::owed_position(side, id))?;
            let listed_once = self.owed.insert((side, id), Position(position)).is_none();
            let sound = listed_once && reverse == Some(Position(position));
            self.expect(sound, format!("copy of object {id} owed to {side}"), || {
                "its reverse row does not fit".into()
            });
            let reason = view.get(&keys::quarantine(side, id))?;
            self.expect(
                reason.is_some() == owed.quarantined,
                format!("object {id}"),
                || "quarantine is not listed".into(),
            );
            Ok(())
        })?;
        for_each(view, keys::QUARANTINE, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(side), Some(id)) = (reader.side(), reader.object()) else {
                return Err(malformed(key));
            };
            let sound = self.owed.contains_key(&(side, id));
            self.expect(sound, format!("object {id}"), || {
                format!("set aside, but not owed to {side}")
            });
            Ok(())
        })?;
        for_each(view, keys::OWED_POSITION, |key, value| {
            let mut reader = KeyReader::new(key);
            let (Some(side), Some(id)) = (reader.side(), reader.object()) else {
                return Err(malformed(key));
            };
            let position: Position = row(key, value)?;
            let sound = self.owed.get(&(side, id)) == Some(&position);
            self.expect(sound, format!("copy of object {id} owed to {side}"), || {
                "it is not listed by position".into()
            });
            Ok(())
        })
    }

    fn compare_objects(&mut self, has_target: bool, backfilling: bool) {
        for id in self
            .live
            .keys()
            .filter(|id| !self.objects.contains_key(id))
            .copied()
            .collect::<Vec<_>>()
        {
            self.problem(format!("object {id}"), "an extent names it, but it is unknown");
        }
        for (id, object) in self.objects.clone() {
            let place = format!("object {id}");
            let named = self.live.get(&id).copied().unwrap_or_default();
            let stored = object.live_bytes;
            self.expect(named == stored, &place, || {
                format!("{stored} live bytes, but extents name {named}")
            });
            let sound = self.sparse.contains(&id) == (object.sparse_bytes() > 0);
            self.expect(sound, &place, || "it is sparse, but not listed".into());
            let sound = self.named_by.get(&id).is_none_or(|span| {
                object
                    .named_by
                    .is_some_and(|known| known.contains(span.first) && known.contains(span.last))
            });
            self.expect(sound, &place, || {
                "a file beyond its range of files names it".into()
            });
            let sound = (named > 0) == (object.life == Life::Live);
            self.expect(sound, &place, || {
                format!("it is {:?}, and extents name {named} bytes", object.life)
            });
            let buried = self.dead.remove(&id);
            let expected = if let Life::Dead(position) = object.life {
                Some(position)
            } else {
                None
            };
            self.expect(buried == expected, &place, || {
                format!("among the dead: {buried:?}, expected {expected:?}")
            });
            let deleting = Side::BOTH
                .iter()
                .any(|side| self.deletions.contains(&(*side, id)));
            let sound = deleting == (object.life == Life::Deleting);
            self.expect(sound, &place, || {
                format!("it is {:?}, deletion owed: {deleting}", object.life)
            });
            if object.life == Life::Live {
                count(&mut self.totals.objects, object.stored_bytes);
            }
            for side in Side::BOTH {
                let wanted = has_target && object.life == Life::Live && !object.present.contains(side);
                let owed = self.owed.remove(&(side, id));
                if !backfilling || side == Side::Primary {
                    self.expect(owed.is_some() == wanted, &place, || {
                        format!("present on {:?}, owed to {side}: {owed:?}", object.present)
                    });
                }
                let sound = owed.is_none_or(|position| position <= object.position);
                self.expect(sound, &place, || {
                    format!("owed to {side} later than it is needed")
                });
            }
        }
        for id in std::mem::take(&mut self.dead).into_keys() {
            self.problem(format!("object {id}"), "it is among the dead, but unknown");
        }
        for ((side, id), _) in std::mem::take(&mut self.owed) {
            self.problem(
                format!("object {id}"),
                format!("it is owed to {side}, but unknown"),
            );
        }
    }

    fn compare_sessions(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let counters: Option<CountersRow> = read(view, keys::COUNTERS)?;
        let Some(counters) = counters else {
            self.problem("counters", "there are none");
            return Ok(());
        };
        if let Some(number) = self.inodes.keys().next_back().copied() {
            self.expect(number.0 < counters.next_inode, format!("inode {number}"), || {
                "it was never granted".into()
            });
        }
        for_each(view, keys::SESSION, |key, value| {
            let session: SessionRow = row(key, value)?;
            let inodes = session
                .inodes
                .iter()
                .all(|range| range.end <= counters.next_inode);
            let objects = session
                .objects
                .iter()
                .all(|range| range.numbers.end <= counters.next_object);
            self.expect(inodes && objects, format!("session {}", session.session), || {
                "it has numbers that will be granted again".into()
            });
            Ok(())
        })
    }
}

fn count(tally: &mut Tally, bytes: u64) {
    tally.count += 1;
    tally.bytes += bytes;
}
