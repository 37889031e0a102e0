//! The names of the archive's objects, and what can be concluded from the names alone.
//!
//! ```text
//! metadata/reigns/<epoch>                               where a leader began
//! metadata/<epoch>/journal/<first>-<last>               records, stored by the leader of that epoch
//! metadata/<epoch>/checkpoints/<position>/chunk-<n>     keys and values
//! metadata/<epoch>/checkpoints/<position>/manifest      stored last
//! ```
//!
//! # Which history is the true one
//!
//! Of two leaders the one with the higher epoch is right. Its reign began after a certain record; what leaders of lower
//! epochs stored beyond that record is *void*, whether it was lost to a restore or written by a leader that did not know
//! it was deposed.

use std::collections::{BTreeMap, BTreeSet};

use twinshore_protocol::{Epoch, Position};

use super::checkpoint::Reign;

/// Everything of the archive lies below this.
pub const PREFIX: &str = "metadata/";

/// A restore continues with the next multiple of this: higher than the epoch of any leader that this bucket may have missed
/// while it was down (a leader starts a few times a day at most), and recognisable as descending from a restore.
pub const RESTORE_EPOCH_STEP: u64 = 4096;

/// Records, as stored by a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunName {
    /// The leader that stored them (not necessarily the one that made them).
    pub epoch: Epoch,
    /// The first.
    pub first: Position,
    /// The last.
    pub last: Position,
}

/// A checkpoint, as stored by a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointName {
    /// Of which record it holds the effect, and of all before.
    pub position: Position,
    /// The leader that stored it.
    pub epoch: Epoch,
}

impl RunName {
    /// Its key.
    pub fn key(&self) -> String {
        format!(
            "{PREFIX}{:020}/journal/{:020}-{:020}",
            self.epoch.0, self.first.0, self.last.0
        )
    }
}

impl CheckpointName {
    /// The key of its manifest.
    pub fn manifest_key(&self) -> String {
        format!("{}manifest", self.prefix())
    }

    /// The key of a chunk.
    pub fn chunk_key(&self, number: u64) -> String {
        format!("{}chunk-{number:08}", self.prefix())
    }

    fn prefix(&self) -> String {
        format!(
            "{PREFIX}{:020}/checkpoints/{:020}/",
            self.epoch.0, self.position.0
        )
    }
}

/// The key of a leader's announcement.
pub fn reign_key(epoch: Epoch) -> String {
    format!("{PREFIX}reigns/{:020}", epoch.0)
}

/// The name of an object of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Reign(Epoch),
    Run(RunName),
    Manifest(CheckpointName),
    Chunk(CheckpointName, u64),
}

impl Name {
    fn key(&self) -> String {
        match self {
            Self::Reign(epoch) => reign_key(*epoch),
            Self::Run(run) => run.key(),
            Self::Manifest(checkpoint) => checkpoint.manifest_key(),
            Self::Chunk(checkpoint, number) => checkpoint.chunk_key(*number),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.strip_prefix(PREFIX)?.split('/').collect();
        let name = match parts[..] {
            ["reigns", epoch] => Self::Reign(Epoch(epoch.parse().ok()?)),
            [epoch, "journal", range] => {
                let (first, last) = range.split_once('-')?;
                let (first, last) = (Position(first.parse().ok()?), Position(last.parse().ok()?));
                Self::Run(RunName {
                    epoch: Epoch(epoch.parse().ok()?),
                    first,
                    last,
                })
            }
            [epoch, "checkpoints", position, object] => {
                let position = Position(position.parse().ok()?);
                let checkpoint = CheckpointName {
                    position,
                    epoch: Epoch(epoch.parse().ok()?),
                };
                match object.strip_prefix("chunk-") {
                    Some(number) => Self::Chunk(checkpoint, number.parse().ok()?),
                    None => Self::Manifest(checkpoint),
                }
            }
            _ => return None,
        };
        // Only what this release would write: `007` is not `7`.
        (name.key() == key).then_some(name)
    }
}

/// What a bucket holds.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Epochs that were announced. Their content is added by [`Catalogue::add_reign`].
    announced: BTreeSet<Epoch>,
    /// After which record each reign began.
    reigns: BTreeMap<Epoch, Position>,
    runs: BTreeSet<RunName>,
    manifests: BTreeSet<CheckpointName>,
    chunks: BTreeMap<CheckpointName, BTreeSet<u64>>,
}

impl Catalogue {
    /// Adds a key of a listing. What is not ours is left alone.
    pub fn add_key(&mut self, key: &str) {
        match Name::parse(key) {
            Some(Name::Reign(epoch)) => drop(self.announced.insert(epoch)),
            Some(Name::Run(run)) => self.add_run(run),
            Some(Name::Manifest(checkpoint)) => drop(self.manifests.insert(checkpoint)),
            Some(Name::Chunk(checkpoint, number)) => {
                self.chunks.entry(checkpoint).or_default().insert(number);
            }
            None => {}
        }
    }

    /// Adds records that were stored.
    pub fn add_run(&mut self, run: RunName) {
        self.runs.insert(run);
    }

    /// Adds a checkpoint that was stored.
    pub fn add_checkpoint(&mut self, checkpoint: CheckpointName, chunks: u64) {
        self.manifests.insert(checkpoint);
        self.chunks.insert(checkpoint, (0..chunks).collect());
    }

    /// Adds the content of an announcement.
    pub fn add_reign(&mut self, reign: &Reign) {
        self.announced.insert(reign.epoch);
        self.reigns.insert(reign.epoch, reign.position);
    }

    /// The epochs that were announced.
    pub fn announced(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.announced.iter().copied()
    }

    /// The highest epoch that anything here tells of.
    pub fn highest_epoch(&self) -> Epoch {
        let announced = self.announced.last().copied();
        let runs = self.runs.iter().map(|run| run.epoch).max();
        let checkpoints = self
            .manifests
            .iter()
            .chain(self.chunks.keys())
            .map(|checkpoint| checkpoint.epoch)
            .max();
        announced.max(runs).max(checkpoints).unwrap_or(Epoch(0))
    }

    /// The last record up to which the word of a leader counts.
    fn rules_until(&self, epoch: Epoch) -> Position {
        let later = self
            .reigns
            .range(Epoch(epoch.0.saturating_add(1))..)
            .map(|(_, position)| *position)
            .min();
        later.unwrap_or(Position(u64::MAX))
    }

    /// Checkpoints that are part of the history and whose manifest is there, newest first.
    pub fn checkpoints(&self) -> Vec<CheckpointName> {
        let mut valid: Vec<CheckpointName> = self
            .manifests
            .iter()
            .copied()
            .filter(|checkpoint| checkpoint.position <= self.rules_until(checkpoint.epoch))
            .collect();
        valid.sort_unstable_by(|one, other| other.cmp(one));
        valid
    }

    /// How many chunks of a checkpoint are there.
    pub fn chunk_count(&self, checkpoint: &CheckpointName) -> usize {
        self.chunks.get(checkpoint).map_or(0, BTreeSet::len)
    }

    /// Runs that hold the record after `position`, each with the last record of it that counts; the best first.
    pub fn runs_after(&self, position: Position) -> Vec<(RunName, Position)> {
        let next = position.next();
        let mut found: Vec<(RunName, Position)> = self
            .runs
            .iter()
            .map(|run| (*run, run.last.min(self.rules_until(run.epoch))))
            .filter(|(run, until)| run.first <= next && next <= *until)
            .collect();
        found.sort_unstable_by_key(|(run, until)| std::cmp::Reverse((*until, run.epoch)));
        found
    }

    /// How far the names promise records without a gap after `position`.
    pub fn reach(&self, position: Position) -> Position {
        let mut reached = position;
        while let Some((_, until)) = self.runs_after(reached).first() {
            reached = *until;
        }
        reached
    }

    /// The last record that any object of the history promises, with or without gaps.
    pub fn promised(&self) -> Position {
        let runs = self
            .runs
            .iter()
            .map(|run| (run.first, run.last.min(self.rules_until(run.epoch))))
            .filter(|(first, until)| first <= until)
            .map(|(_, until)| until)
            .max();
        let checkpoint = self.checkpoints().first().map(|checkpoint| checkpoint.position);
        runs.max(checkpoint).unwrap_or(Position::ZERO)
    }

    /// What is not needed any more when these checkpoints are verified: nothing while there are fewer than two. Manifests
    /// come first. Everything void goes too. Announcements stay: they are what makes void what is void.
    pub fn superfluous(&self, kept: &BTreeSet<CheckpointName>) -> Vec<String> {
        let Some(oldest) = kept.first().filter(|_| kept.len() >= 2) else {
            return Vec::new();
        };
        let gone = |checkpoint: &&CheckpointName| !kept.contains(*checkpoint);
        let manifests = self
            .manifests
            .iter()
            .filter(gone)
            .map(CheckpointName::manifest_key);
        let chunks = self
            .chunks
            .iter()
            .filter(|(checkpoint, _)| gone(checkpoint))
            .flat_map(|(checkpoint, numbers)| numbers.iter().map(|number| checkpoint.chunk_key(*number)));
        let runs = self
            .runs
            .iter()
            .filter(|run| {
                let until = run.last.min(self.rules_until(run.epoch));
                until <= oldest.position || run.first > until
            })
            .map(RunName::key);
        manifests.chain(chunks).chain(runs).collect()
    }

    /// Forgets what was deleted.
    pub fn remove_key(&mut self, key: &str) {
        match Name::parse(key) {
            Some(Name::Run(run)) => drop(self.runs.remove(&run)),
            Some(Name::Manifest(checkpoint)) => drop(self.manifests.remove(&checkpoint)),
            Some(Name::Chunk(checkpoint, number)) => {
                if let Some(numbers) = self.chunks.get_mut(&checkpoint) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        self.chunks.remove(&checkpoint);
                    }
                }
            }
            Some(Name::Reign(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(epoch: u64, first: u64, last: u64) -> RunName {
        RunName {
            epoch: Epoch(epoch),
            first: Position(first),
            last: Position(last),
        }
    }

    fn reign(epoch: u64, position: u64) -> Reign {
        Reign {
            epoch: Epoch(epoch),
            instance: 0,
            position: Position(position),
            digest: [0; 32],
        }
    }

    fn checkpoint(epoch: u64, position: u64) -> CheckpointName {
        CheckpointName {
            epoch: Epoch(epoch),
            position: Position(position),
        }
    }

    #[test]
    fn names_are_read_back_and_others_are_left_alone() {
        let names = [
            Name::Reign(Epoch(7)),
            Name::Run(run(1, 2, 3)),
            Name::Manifest(checkpoint(4, 5)),
            Name::Chunk(checkpoint(4, 5), 6),
        ];
        for name in names {
            assert_eq!(Name::parse(&name.key()), Some(name));
        }
        for other in [
            "objects/ab/1",
            "metadata/",
            "metadata/reigns/7",
            "metadata/reigns/",
            "metadata/x/journal/1-2",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
        assert_eq!(
            run(1, 2, 3).key(),
            "metadata/00000000000000000001/journal/00000000000000000002-00000000000000000003"
        );
    }

    #[test]
    fn records_beyond_the_beginning_of_a_later_reign_are_void() {
        let mut catalogue = Catalogue::default();
        for (first, last) in [(1, 100), (101, 200), (201, 300)] {
            catalogue.add_run(run(1, first, last));
        }
        assert_eq!(catalogue.reach(Position(0)), Position(300));
        // A restore came only to 150.
        catalogue.add_reign(&reign(4097, 150));
        assert_eq!(catalogue.reach(Position(0)), Position(150));
        catalogue.add_run(run(4097, 151, 160));
        assert_eq!(catalogue.reach(Position(0)), Position(160));
        assert_eq!(catalogue.promised(), Position(160));
        catalogue.add_checkpoint(checkpoint(1, 250), 1);
        catalogue.add_checkpoint(checkpoint(1, 100), 1);
        assert_eq!(catalogue.checkpoints(), [checkpoint(1, 100)]);
        assert_eq!(catalogue.highest_epoch(), Epoch(4097));
    }

    #[test]
    fn a_gap_ends_the_reach_but_not_the_promise() {
        let mut catalogue = Catalogue::default();
        catalogue.add_run(run(1, 1, 10));
        catalogue.add_run(run(1, 12, 20));
        assert_eq!(catalogue.reach(Position(0)), Position(10));
        assert_eq!(catalogue.reach(Position(11)), Position(20));
        assert_eq!(catalogue.promised(), Position(20));
    }

    #[test]
    fn two_checkpoints_and_what_follows_the_older_one_are_kept() {
        let mut catalogue = Catalogue::default();
        catalogue.add_reign(&reign(1, 0));
        for first in [1, 101, 201, 301] {
            catalogue.add_run(run(1, first, first + 99));
        }
        for position in [50, 150, 250] {
            catalogue.add_checkpoint(checkpoint(1, position), 2);
        }
        assert_eq!(
            catalogue.superfluous(&BTreeSet::from([checkpoint(1, 250)])),
            Vec::<String>::new()
        );
        let gone = catalogue.superfluous(&BTreeSet::from([checkpoint(1, 150), checkpoint(1, 250)]));
        assert_eq!(
            gone,
            [
                checkpoint(1, 50).manifest_key(),
                checkpoint(1, 50).chunk_key(0),
                checkpoint(1, 50).chunk_key(1),
                run(1, 1, 100).key()
            ]
        );
        for key in &gone {
            catalogue.remove_key(key);
        }
        assert_eq!(catalogue.reach(Position(150)), Position(400));
        assert_eq!(catalogue.checkpoints().len(), 2);
    }
}
