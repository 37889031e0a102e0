//! Archives to both buckets, each at its own pace.
//!
//! # What a loss of the metadata service's disk costs
//!
//! What was committed and is in no bucket: records are stored every [`ArchiverOptions::records_interval`], also while a
//! checkpoint is on its way, and all of them at a graceful stop ([`ArchiveHandle::store_everything`]).
//!
//! # What may be trimmed
//!
//! A bucket allows trimming up to its older verified checkpoint. The journal may be trimmed up to the least that the
//! buckets allow. A bucket that has not answered for [`ArchiverOptions::patience`] is not waited for any more, as long as
//! another one allows something: when it returns, a new checkpoint bridges what was trimmed meanwhile. While no bucket
//! answers, nothing more is trimmed. The floor never falls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use twinshore_protocol::{Position, Side, VolumeId};
use twinshore_storage::bucket::{Bucket, BucketError};

use super::checkpoint::Reign;
use super::side::{
    ArchiveError, CheckpointJob, RecordSource, SideArchive, SideStatus, SourceError, StoredCheckpoint,
};
use crate::journal::Tail;

/// The pace of an archiver.
#[derive(Clone, Copy, Debug)]
pub struct ArchiverOptions {
    /// How often committed records are stored: what a loss of the metadata service's disk can cost.
    pub records_interval: Duration,
    /// The content of one run, at most about.
    pub run_bytes: usize,
    /// How often a checkpoint is made, if there is anything new. A restore applies the records of two such intervals.
    pub checkpoint_interval: Duration,
    /// A checkpoint that is not stored by then is given up, so that the store need not keep old versions for ever.
    pub checkpoint_deadline: Duration,
    /// After a failure, before the next attempt; doubles up to `retry_most`.
    pub retry_least: Duration,
    /// The longest pause between two attempts.
    pub retry_most: Duration,
    /// How long a bucket that does not answer holds back trimming.
    pub patience: Duration,
}

impl Default for ArchiverOptions {
    fn default() -> Self {
        Self {
            records_interval: Duration::from_secs(5),
            run_bytes: 8 << 20,
            checkpoint_interval: Duration::from_mins(10),
            checkpoint_deadline: Duration::from_hours(1),
            retry_least: Duration::from_secs(1),
            retry_most: Duration::from_mins(1),
            patience: Duration::from_hours(1),
        }
    }
}

/// How far the archive is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// One for each bucket that there is.
    pub sides: [Option<SideStatus>; 2],
    /// Records up to here may be trimmed, as far as the archive is concerned. The caller also keeps what its view has not
    /// persisted.
    pub trim_floor: Position,
}

impl ArchiveStatus {
    /// Records up to here are in all buckets.
    pub fn archived(&self) -> Position {
        self.least(|side| side.archived)
    }

    /// All buckets hold a verified checkpoint of at least this position.
    pub fn checkpoint(&self) -> Position {
        self.least(|side| side.checkpoint)
    }

    fn least(&self, of: impl Fn(&SideStatus) -> Position) -> Position {
        self.sides
            .iter()
            .flatten()
            .map(of)
            .min()
            .unwrap_or(Position::ZERO)
    }
}

/// How long each side has been failing, for [`trim_floor`].
type Failing = [Option<Duration>; 2];

/// Up to where may be trimmed. Pure.
fn trim_floor(
    before: Position,
    sides: &[Option<SideStatus>; 2],
    failing: Failing,
    patience: Duration,
) -> Position {
    let waited_for = sides
        .iter()
        .zip(failing)
        .filter(|(_, failing)| failing.is_none_or(|failing| failing < patience))
        .filter_map(|(side, _)| side.as_ref())
        .map(|side| side.previous_checkpoint.min(side.archived))
        .min();
    waited_for.map_or(before, |floor| floor.max(before))
}

/// What can be asked of a running archiver. It stops when all handles are gone.
#[derive(Clone, Debug)]
pub struct ArchiveHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ArchiveStatus>,
}

enum Command {
    Replace(Side, Option<Arc<dyn Bucket>>),
    Checkpoint,
    Flush,
}

impl ArchiveHandle {
    /// How far the archive is, now and at every change.
    pub fn status(&self) -> watch::Receiver<ArchiveStatus> {
        self.status.clone()
    }

    /// From now on a side has another bucket, or none. Tells whether the archiver is still running.
    pub async fn replace(&self, side: Side, bucket: Option<Arc<dyn Bucket>>) -> bool {
        self.commands.send(Command::Replace(side, bucket)).await.is_ok()
    }

    /// Makes checkpoints soon. Tells whether the archiver is still running.
    pub async fn make_checkpoint(&self) -> bool {
        self.commands.send(Command::Checkpoint).await.is_ok()
    }

    /// Stores what was committed soon, instead of at the next interval. Tells whether the archiver is still running.
    pub async fn flush(&self) -> bool {
        self.commands.send(Command::Flush).await.is_ok()
    }

    /// Returns when every bucket there is holds all records up to a position. For ever if a bucket does not answer: the
    /// caller has the deadline. Tells whether that is so, or the archiver has stopped.
    pub async fn store_everything(&self, until: Position) -> bool {
        let mut status = self.status();
        let complete =
            |status: &ArchiveStatus| status.sides.iter().flatten().all(|side| side.archived >= until);
        self.flush().await && status.wait_for(complete).await.is_ok()
    }
}

/// What drives one side: counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    checkpoints: u64,
    flushes: u64,
}

/// Archives to both buckets.
pub struct Archiver {
    volume: VolumeId,
    reign: Reign,
    source: Arc<dyn RecordSource>,
    options: ArchiverOptions,
    buckets: [Option<Arc<dyn Bucket>>; 2],
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<ArchiveStatus>,
}

/// What one side reports.
struct Report {
    side: Side,
    generation: u64,
    status: SideStatus,
    failing_since: Option<Instant>,
}

impl Archiver {
    /// `began` is the tail as [`crate::journal::Journal::acquire`] returned it, `instance` a random number of this process.
    pub fn new(
        volume: VolumeId,
        began: &Tail,
        instance: u64,
        source: Arc<dyn RecordSource>,
        buckets: [Option<Arc<dyn Bucket>>; 2],
        options: ArchiverOptions,
    ) -> (Self, ArchiveHandle) {
        let reign = Reign {
            epoch: began.epoch,
            instance,
            position: began.position,
            digest: began.digest,
        };
        // A command is rare and a person's; a handful may wait.
        let (command_sender, commands) = mpsc::channel(8);
        let (status, status_receiver) = watch::channel(ArchiveStatus::default());
        let handle = ArchiveHandle {
            commands: command_sender,
            status: status_receiver,
        };
        (
            Self {
                volume,
                reign,
                source,
                options,
                buckets,
                commands,
                status,
            },
            handle,
        )
    }

    /// Runs until all handles are gone. An error is final: the leader must step down.
    pub async fn run(self) -> Result<(), ArchiveError> {
        let Self {
            volume,
            reign,
            source,
            options,
            buckets,
            mut commands,
            status,
        } = self;
        // Each side reports once per step; the queue is only as long as it is cheap.
        let (reports, mut received) = mpsc::channel::<Report>(8);
        let (wishes, _) = watch::channel(Wishes::default());
        let mut tasks: JoinSet<Result<(), ArchiveError>> = JoinSet::new();
        let mut running: [Option<tokio::task::AbortHandle>; 2] = [None, None];
        let mut generations = [0_u64; 2];
        let mut failing_since: [Option<Instant>; 2] = [None, None];
        let side_task = |side: Side, generation: u64, bucket: Arc<dyn Bucket>| {
            let archive = SideArchive::new(bucket, Arc::clone(&source), volume, reign, options.run_bytes);
            run_side(
                archive,
                side,
                generation,
                options,
                reports.clone(),
                wishes.subscribe(),
            )
        };
        for side in Side::BOTH {
            if let Some(bucket) = buckets[side as usize].clone() {
                status.send_modify(|status| status.sides[side as usize] = Some(SideStatus::default()));
                running[side as usize] = Some(tasks.spawn(side_task(side, 0, bucket)));
            }
        }
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::Checkpoint) => wishes.send_modify(|wishes| wishes.checkpoints += 1),
                    Some(Command::Flush) => wishes.send_modify(|wishes| wishes.flushes += 1),
                    Some(Command::Replace(side, bucket)) => {
                        let index = side as usize;
                        if let Some(task) = running[index].take() {
                            task.abort();
                        }
                        generations[index] += 1;
                        failing_since[index] = None;
                        status.send_modify(|status| status.sides[index] = bucket.is_some().then(SideStatus::default));
                        if let Some(bucket) = bucket {
                            running[index] = Some(tasks.spawn(side_task(side, generations[index], bucket)));
                        }
                    }
                },
                Some(report) = received.recv() => {
                    let index = report.side as usize;
                    if report.generation != generations[index] {
                        continue;
                    }
                    failing_since[index] = report.failing_since;
                    status.send_modify(|status| {
                        status.sides[index] = Some(report.status);
                        let failing = failing_since.map(|since| since.map(|since| since.elapsed()));
                        status.trim_floor =
                            trim_floor(status.trim_floor, &status.sides, failing, options.patience);
                    });
                }
                Some(ended) = tasks.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        return Err(SourceError::Stopped(format!("a task of the archive ended: {error}")).into());
                    }
                },
            }
        }
    }
}

/// What has failed lately, and how long to leave it alone.
struct Attempts {
    least: Duration,
    most: Duration,
    next: Duration,
    failing_since: Option<Instant>,
    error: Option<String>,
}

impl Attempts {
    fn new(options: &ArchiverOptions) -> Self {
        Self {
            least: options.retry_least,
            most: options.retry_most,
            next: options.retry_least,
            failing_since: None,
            error: None,
        }
    }

    fn succeeded(&mut self) {
        (self.next, self.failing_since, self.error) = (self.least, None, None);
    }

    /// Returns how long to wait.
    fn failed(&mut self, side: Side, error: &ArchiveError) -> Duration {
        tracing::warn!(side = %side, error = %chain(error), "the archive is held up");
        self.error = Some(chain(error));
        self.failing_since.get_or_insert_with(Instant::now);
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause
    }
}

/// Keeps one bucket up to date. Ends only with an error that is final.
async fn run_side(
    mut archive: SideArchive,
    side: Side,
    generation: u64,
    options: ArchiverOptions,
    reports: mpsc::Sender<Report>,
    mut wishes: watch::Receiver<Wishes>,
) -> Result<(), ArchiveError> {
    let mut records = Attempts::new(&options);
    let mut checkpoints = Attempts::new(&options);
    // One at most. It ends with this task.
    let mut checkpoint: JoinSet<Result<Option<StoredCheckpoint>, ArchiveError>> = JoinSet::new();
    let mut next_checkpoint = Instant::now();
    let mut done = wishes.borrow_and_update().checkpoints;
    loop {
        let asked = wishes.borrow_and_update().checkpoints;
        let result = store_records(&mut archive).await;
        let is_gap = matches!(result, Ok(Progress::Gap));
        let pause = match result {
            Ok(progress) => {
                records.succeeded();
                match progress {
                    Progress::More => Duration::ZERO,
                    Progress::Complete | Progress::Gap => options.records_interval,
                }
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => records.failed(side, &error),
        };
        let is_due = asked > done || is_gap || next_checkpoint <= Instant::now();
        if is_due && checkpoint.is_empty() && archive.is_prepared() {
            done = asked;
            next_checkpoint = Instant::now() + options.checkpoint_interval;
            checkpoint.spawn(in_time(archive.checkpoint_job(), options.checkpoint_deadline));
        }
        let report = Report {
            side,
            generation,
            status: SideStatus {
                error: records.error.clone().or_else(|| checkpoints.error.clone()),
                ..archive.status()
            },
            failing_since: [records.failing_since, checkpoints.failing_since]
                .into_iter()
                .flatten()
                .min(),
        };
        if reports.send(report).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            biased;
            Some(ended) = checkpoint.join_next() => match ended {
                Ok(Ok(stored)) => {
                    checkpoints.succeeded();
                    if let Some(stored) = stored {
                        archive.checkpoint_stored(&stored);
                    }
                }
                Ok(Err(error)) if error.is_final() => return Err(error),
                Ok(Err(error)) => next_checkpoint = Instant::now() + checkpoints.failed(side, &error),
                Err(error) => {
                    return Err(SourceError::Stopped(format!("a checkpoint ended: {error}")).into());
                }
            },
            changed = wishes.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What a step has left to do.
enum Progress {
    /// There are more records.
    More,
    /// All are stored.
    Complete,
    /// Records are missing that were trimmed: a checkpoint has to bridge them.
    Gap,
}

/// One step.
async fn store_records(archive: &mut SideArchive) -> Result<Progress, ArchiveError> {
    archive.prepare().await?;
    archive.check_deposed().await?;
    let progress = match archive.store_records().await {
        Ok(true) => return Ok(Progress::More),
        Ok(false) => Progress::Complete,
        Err(ArchiveError::Source(SourceError::Trimmed { .. })) => Progress::Gap,
        Err(error) => return Err(error),
    };
    archive.clean_up().await?;
    Ok(progress)
}

async fn in_time(job: CheckpointJob, deadline: Duration) -> Result<Option<StoredCheckpoint>, ArchiveError> {
    tokio::time::timeout(deadline, job.run())
        .await
        .unwrap_or_else(|_| {
            let what = format!(
                "storing a checkpoint took longer than {} seconds",
                deadline.as_secs()
            );
            Err(BucketError::Unavailable { what }.into())
        })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(archived: u64, previous: u64) -> SideStatus {
        SideStatus {
            archived: Position(archived),
            previous_checkpoint: Position(previous),
            ..SideStatus::default()
        }
    }

    #[test]
    fn the_floor_is_what_all_buckets_allow_that_are_waited_for() {
        let hour = Duration::from_hours(1);
        let (short, long) = (Some(hour / 2), Some(hour * 2));
        for (sides, failing, expected) in [
            ([Some(side(100, 50)), None], [None, None], 50),
            ([Some(side(100, 50)), Some(side(90, 40))], [None, None], 40),
            ([Some(side(100, 50)), Some(side(30, 0))], [None, short], 10),
            ([Some(side(100, 50)), Some(side(30, 0))], [None, long], 50),
            ([Some(side(100, 50)), Some(side(90, 40))], [long, long], 10),
            ([None, None], [None, None], 10),
        ] {
            let floor = trim_floor(Position(10), &sides, failing, hour);
            assert_eq!(floor, Position(expected), "{sides:?} {failing:?}");
        }
    }
}
