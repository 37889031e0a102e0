//! Claims, snapshots, access, copies and whole trees.

use std::collections::{BTreeMap, BTreeSet};

use twinshore_protocol::claims::{ClaimKey, Label, NodeName};
use twinshore_protocol::{FileName, FileType, InodeNumber};

use super::super::CoreError;
use super::super::claims::rows::{
    ClaimRow, ClaimedRow, CopyGoal, CopyPhase, CopyRow, CopyState, HiddenRow, HoldRow, SnapshotRow,
};
use super::super::keys::{self, KeyReader};
use super::super::names::entry_key;
use super::super::transaction::read;
use super::super::values::{EntryRow, Place, UsageRow};
use super::{Check, for_each, malformed, row};
use crate::view::View;

impl Check {
    pub(super) fn read_hidden(&mut self, view: &dyn View) -> Result<(), CoreError> {
        self.hidden = read(view, keys::HIDDEN)?;
        if let Some(HiddenRow { copies, removed }) = self.hidden {
            for (directory, parent) in [(copies, InodeNumber::ROOT), (removed, removed)] {
                let sound = (self.inodes.get(&directory))
                    .is_some_and(|inode| inode.is_directory() && inode.place == Place::Named { parent });
                self.expect(sound, format!("hidden directory {directory}"), || {
                    "it does not exist, or is elsewhere".into()
                });
            }
        }
        Ok(())
    }

    /// Is it one of the directories that no name leads to?
    pub(super) fn is_hidden(&self, inode: InodeNumber) -> bool {
        self.hidden
            .is_some_and(|hidden| hidden.copies == inode || hidden.removed == inode)
    }

    /// Is it a tree that was removed?
    pub(super) fn is_removed_tree(&self, inode: InodeNumber) -> bool {
        let place = self.inodes.get(&inode).map(|row| row.place);
        self.hidden.is_some_and(|hidden| {
            place
                == Some(Place::Named {
                    parent: hidden.removed,
                })
                && inode != hidden.removed
        })
    }

    /// Removed trees, and those rows that say what becomes of them.
    pub(super) fn compare_trees(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut trees = BTreeSet::new();
        for prefix in [keys::TREE, keys::RAZE] {
            for_each(view, prefix, |key, _| {
                let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
                let sound = self.is_removed_tree(number) && trees.insert(number);
                self.expect(sound, format!("removed tree {number}"), || {
                    "it does not exist, is elsewhere, or is told of twice".into()
                });
                Ok(())
            })?;
        }
        let mut all: Vec<_> = self.inodes.keys().copied().collect();
        all.retain(|number| self.is_removed_tree(*number));
        for number in all {
            self.expect(trees.contains(&number), format!("removed tree {number}"), || {
                "nothing says what becomes of it".into()
            });
        }
        Ok(())
    }

    pub(super) fn compare_claims(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut directories: BTreeMap<InodeNumber, ClaimedRow> = BTreeMap::new();
        let mut copying: BTreeSet<InodeNumber> = BTreeSet::new();
        for_each(view, keys::CLAIMED, |key, value| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            directories.insert(number, row(key, value)?);
            Ok(())
        })?;
        let mut named: BTreeSet<(InodeNumber, ClaimKey)> = BTreeSet::new();
        for_each(view, keys::CLAIM_OF, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(number), Some(claim)) = (reader.inode(), reader.claim()) else {
                return Err(malformed(key));
            };
            named.insert((number, claim));
            Ok(())
        })?;
        let mut claims = BTreeSet::new();
        for_each(view, keys::CLAIM, |key, value| {
            let claim = KeyReader::new(key).claim().ok_or_else(|| malformed(key))?;
            let ClaimRow { directory, .. } = row(key, value)?;
            let sound = directories.contains_key(&directory);
            self.expect(sound, format!("claim {claim}"), || {
                format!("directory {directory}, which it holds, is not claimed")
            });
            claims.insert((directory, claim));
            Ok(())
        })?;
        self.expect(named == claims, "claims", || {
            "those that directories know are not those that there are".into()
        });
        let mut paths = BTreeMap::new();
        for_each(view, keys::CLAIMED_PATH, |key, value| {
            paths.insert(key.clone(), row::<InodeNumber>(key, value)?);
            Ok(())
        })?;
        self.expect(paths.len() == directories.len(), "claimed paths", || {
            "there are more or fewer than claimed directories".into()
        });
        let mut pins: BTreeMap<InodeNumber, u32> = BTreeMap::new();
        for (number, claimed) in &directories {
            let place = format!("claimed directory {number}");
            let sound = paths.get(&keys::claimed_path(claimed.path.names())) == Some(number);
            self.expect(sound, &place, || "its path is not known".into());
            let held = claims.iter().any(|(directory, _)| directory == number);
            self.expect(held, &place, || "no claim holds it".into());
            match claimed.state {
                CopyState::Ready => {
                    let stands = at_path(view, claimed.path.names())? == Some(*number);
                    self.expect(stands, &place, || format!("it is not {}", claimed.path));
                    self.pin(*number, &mut pins);
                }
                CopyState::Copying => {
                    copying.insert(*number);
                }
                CopyState::Failed { .. } => {}
            }
        }
        for_each(view, keys::USAGE, |key, value| {
            let number = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let usage: UsageRow = row(key, value)?;
            let counted = pins.get(&number).copied().unwrap_or_default();
            self.expect(
                usage.claimed == counted,
                format!("usage of directory {number}"),
                || {
                    format!(
                        "it counts {} claimed directories, there are {counted}",
                        usage.claimed
                    )
                },
            );
            Ok(())
        })?;
        self.compare_snapshots(view, &mut copying)?;
        self.compare_copies(view, copying)?;
        self.compare_holds(view)
    }

    /// Counts a claimed directory in all that hold it.
    fn pin(&self, directory: InodeNumber, pins: &mut BTreeMap<InodeNumber, u32>) {
        let mut next = directory;
        for _ in 0..=self.inodes.len() {
            *pins.entry(next).or_default() += 1;
            match self.inodes.get(&next).map(|row| row.place) {
                Some(Place::Named { parent }) if parent != next => next = parent,
                _ => return,
            }
        }
    }

    fn compare_snapshots(
        &mut self,
        view: &dyn View,
        copying: &mut BTreeSet<InodeNumber>,
    ) -> Result<(), CoreError> {
        for_each(view, keys::SNAPSHOT, |key, value| {
            let snapshot = KeyReader::new(key).snapshot().ok_or_else(|| malformed(key))?;
            let SnapshotRow { directory, state, .. } = row(key, value)?;
            let parent = self.hidden.map(|hidden| hidden.copies);
            let sound = matches!(state, CopyState::Failed { .. })
                || self.inodes.get(&directory).is_some_and(|inode| {
                    inode.is_directory() && parent.map(|parent| Place::Named { parent }) == Some(inode.place)
                });
            self.expect(sound, format!("snapshot {snapshot}"), || {
                format!("its directory {directory} is not where snapshots are")
            });
            if state == CopyState::Copying {
                copying.insert(directory);
            }
            Ok(())
        })
    }

    fn compare_copies(
        &mut self,
        view: &dyn View,
        mut copying: BTreeSet<InodeNumber>,
    ) -> Result<(), CoreError> {
        let mut known = BTreeSet::new();
        for_each(view, keys::COPY, |key, value| {
            let copy = KeyReader::new(key).inode().ok_or_else(|| malformed(key))?;
            let job: CopyRow = row(key, value)?;
            known.insert(copy.0);
            if job.phase == CopyPhase::Copying {
                let goal = match &job.goal {
                    CopyGoal::Claim { .. } => "a claim",
                    CopyGoal::Snapshot(_) => "a snapshot",
                };
                let sound = copying.remove(&copy) && self.inodes.contains_key(&job.source);
                self.expect(sound, format!("copy {copy}"), || {
                    format!("{goal} does not wait for it, or its source is gone")
                });
            }
            Ok(())
        })?;
        for copy in copying {
            self.problem(format!("copy {copy}"), "it is waited for, but not under way");
        }
        for prefix in [keys::COPY_DIRECTORY, keys::COPY_LINK] {
            for_each(view, prefix, |key, _| {
                let copy = KeyReader::new(key).number().ok_or_else(|| malformed(key))?;
                self.expect(known.contains(&copy), format!("copy {copy}"), || {
                    "rows of it are left, but it is not".into()
                });
                Ok(())
            })?;
        }
        Ok(())
    }

    fn compare_holds(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let mut named: BTreeSet<(InodeNumber, NodeName, Label)> = BTreeSet::new();
        for_each(view, keys::HOLD_OF, |key, _| {
            let mut reader = KeyReader::new(key);
            let (Some(directory), Some((node, target))) = (reader.inode(), reader.hold()) else {
                return Err(malformed(key));
            };
            named.insert((directory, node, target));
            Ok(())
        })?;
        let mut holds = BTreeSet::new();
        for_each(view, keys::HOLD, |key, value| {
            let (node, target) = KeyReader::new(key).hold().ok_or_else(|| malformed(key))?;
            let HoldRow { directory, .. } = row(key, value)?;
            holds.insert((directory, node, target));
            Ok(())
        })?;
        self.expect(named == holds, "access", || {
            "what directories know is not what there is".into()
        });
        Ok(())
    }
}

/// What a path leads to.
fn at_path(view: &dyn View, names: &[FileName]) -> Result<Option<InodeNumber>, CoreError> {
    let mut directory = InodeNumber::ROOT;
    for name in names {
        match read::<EntryRow>(view, &entry_key(directory, name))? {
            Some(EntryRow {
                inode,
                kind: FileType::Directory,
            }) => directory = inode,
            _ => return Ok(None),
        }
    }
    Ok(Some(directory))
}
