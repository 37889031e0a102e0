//! Extents and objects.

use twinshore_protocol::{FileType, InodeNumber, Position, Side};

use super::super::CoreError;
use super::super::keys::{self, KeyReader};
use super::super::transaction::read;
use super::super::values::{ExtentRow, InlineRow, InodeSpan, Life, ObjectRow, OwedRow, SourceRow};
use super::{Check, count, for_each, malformed, row};
use crate::view::View;

impl Check {
    pub(super) fn compare_extents(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    pub(super) fn read_objects(&mut self, view: &dyn View) -> Result<(), CoreError> {
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

    pub(super) fn compare_objects(&mut self, has_target: bool, backfilling: bool) {
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
}
