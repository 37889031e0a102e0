//! The full synchronisation: joins both buckets with the metadata, object by object.
//!
//! # Flow
//!
//! Three streams in order of names are merged: the records of metadata and the listings of both buckets. Sizes are always
//! compared. What does not fit is looked at again *now*, in the bucket and in metadata, because the listings are older;
//! only then is it a finding:
//!
//! * a copy that is missing or damaged is reported absent, so that it is owed and copied from the other side;
//! * a copy that metadata did not know of is read, verified and reported present;
//! * an object in neither bucket is counted as lost;
//! * an object that metadata does not name is removed if it is older than the grace time on every side that has it.
//!
//! A share of the copies is read and verified, another share each time.
//!
//! # Why removing orphans is safe
//!
//! Data is stored before it is committed, so an object without a record may be about to be named. The grace time is far
//! longer than a client holds stored data back (its requests have deadlines of a minute, and it stores what it is about to
//! commit). Metadata is asked once more right before the removal. Names are never reused, so what was judged is what is
//! removed.
//!
//! # Progress
//!
//! Findings and counts are reported every [`BATCH_OBJECTS`] objects; a successor goes on after the last object reported.
//! An error of a bucket or of the service interrupts; the same batch is tried again after a pause.
//!
//! Memory: the listings (10 MB each), a page of records, one batch of suspects, and the bodies that are being verified.

mod close_look;
mod judge;
mod listing;
mod records;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Notify, Semaphore};
use twinshore_protocol::format::VolumeSettings;
use twinshore_protocol::replication::{SynchronisationCounts, SynchronisationReport};
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Caller, ObjectId, Operation, Reply, Side, Sides};
use twinshore_storage::bucket::{Bucket, BucketError};
use twinshore_storage::pair::BucketPair;

use self::judge::Rules;
use self::listing::Listing;
use self::records::Records;

/// Objects joined between two reports.
const BATCH_OBJECTS: usize = 4096;

/// Suspects between two reports: their findings have to fit a message.
const BATCH_SUSPECTS: usize = 1024;

/// Suspects looked at in parallel.
const PARALLEL: usize = 16;

/// The unit of the memory limit.
const MEMORY_UNIT_BYTES: u64 = 4096;

/// After an error, doubled each time up to the longest.
const FAILED_PAUSE_FIRST: Duration = Duration::from_secs(1);
const FAILED_PAUSE_LONGEST: Duration = Duration::from_mins(1);

/// How a full synchronisation works.
#[derive(Clone)]
pub struct SynchroniserOptions {
    /// How old an object must be that no metadata names before it is removed. Longer than any client can hold a stored
    /// object before it commits it.
    pub orphan_grace: Duration,
    /// Out of 10,000 copies so many are read and verified.
    pub verified_of_10000: u64,
    /// Bytes of bodies in memory.
    pub memory_bytes: u64,
    /// Seconds since 1970, on a clock that agrees with the buckets' within the grace time.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl SynchroniserOptions {
    /// A day of grace, and 1 % of the copies verified.
    pub fn new(clock: Arc<dyn Fn() -> i64 + Send + Sync>) -> Self {
        Self {
            orphan_grace: Duration::from_hours(24),
            verified_of_10000: 100,
            memory_bytes: 64 << 20,
            clock,
        }
    }
}

impl std::fmt::Debug for SynchroniserOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SynchroniserOptions")
            .field("orphan_grace", &self.orphan_grace)
            .field("verified_of_10000", &self.verified_of_10000)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

/// Why a synchronisation cannot go on now.
#[derive(Debug, thiserror::Error)]
pub enum SynchronisationError {
    /// The metadata service.
    #[error("the metadata service: {0}")]
    Metadata(#[from] RequestError),
    /// A bucket.
    #[error("the {side} bucket: {error}")]
    Bucket {
        /// Which.
        side: Side,
        /// What it said.
        #[source]
        error: BucketError,
    },
    /// This worker cannot use the bucket.
    #[error("this worker has no access to the {0} bucket: give it the bucket's credentials")]
    NoBucket(Side),
}

/// Carries out full synchronisations, one at a time.
#[derive(Clone)]
pub struct Synchroniser {
    session: Session,
    buckets: BucketPair,
    options: SynchroniserOptions,
}

/// What looking closely found.
#[derive(Debug, Default)]
struct Findings {
    absent: Vec<(ObjectId, Side)>,
    present: Vec<(ObjectId, Side)>,
    counts: SynchronisationCounts,
}

/// One joined stretch of names.
struct Batch {
    findings: Findings,
    until: Option<ObjectId>,
    finished: bool,
}

/// The three streams.
struct Join {
    records: Records,
    listings: [Option<Listing>; 2],
    rules: Rules,
}

impl Synchroniser {
    /// A synchroniser of these buckets.
    pub const fn new(session: Session, buckets: BucketPair, options: SynchroniserOptions) -> Self {
        Self {
            session,
            buckets,
            options,
        }
    }

    /// Runs one synchronisation to its end, from after `after`. Ends early when the session is lost: the service then
    /// hands the rest to somebody. `restart` ends pauses early.
    pub async fn run(&self, after: Option<ObjectId>, restart: &Notify) {
        let mut after = after;
        let mut counts = self.counts_so_far(after).await;
        let mut settings = self.session.format().settings.clone();
        let mut failed_pause = FAILED_PAUSE_FIRST;
        let mut join = None;
        loop {
            let now = self.session.format().settings.clone();
            if !same_buckets(&settings, &now) {
                // What was joined with a bucket that is no longer the volume's says nothing about the new one.
                tracing::info!("the buckets of the volume have changed: the synchronisation starts again");
                (after, counts, join) = (None, SynchronisationCounts::default(), None);
                settings = now;
            }
            let result = self.step(&mut join, &settings, after, &mut counts).await;
            match result {
                Ok(None) => {
                    tracing::info!(?counts, "the synchronisation has finished");
                    return;
                }
                Ok(until) => {
                    after = until;
                    failed_pause = FAILED_PAUSE_FIRST;
                }
                Err(error @ SynchronisationError::Metadata(RequestError::SessionLost)) => {
                    tracing::warn!(%error, "the synchronisation ends here: the service will hand it out again");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the synchronisation pauses");
                    // What the streams hold may have been taken already: begin again after the last report.
                    join = None;
                    tokio::select! {
                        biased;
                        () = restart.notified() => {}
                        () = tokio::time::sleep(failed_pause) => {}
                    }
                    failed_pause = (failed_pause * 2).min(FAILED_PAUSE_LONGEST);
                }
            }
        }
    }

    /// Joins and reports one batch. `None` when it was the last.
    async fn step(
        &self,
        join: &mut Option<Join>,
        settings: &VolumeSettings,
        after: Option<ObjectId>,
        counts: &mut SynchronisationCounts,
    ) -> Result<Option<ObjectId>, SynchronisationError> {
        let streams = match join {
            Some(streams) => streams,
            None => join.insert(self.begin(settings, after).await?),
        };
        let Batch {
            findings,
            until,
            finished,
        } = self.batch(streams).await?;
        let until = until.or(after);
        let mut total = *counts;
        add(&mut total, &findings.counts);
        let report = SynchronisationReport {
            absent: findings.absent,
            present: findings.present,
            counts: total,
            checked_until: until,
            finished,
        };
        self.session
            .request(Caller::ROOT, Operation::ReportSynchronisation { report })
            .await?;
        *counts = total;
        Ok(if finished { None } else { until })
    }

    /// A resumed synchronisation goes on counting where its predecessor ended.
    async fn counts_so_far(&self, after: Option<ObjectId>) -> SynchronisationCounts {
        if after.is_none() {
            return SynchronisationCounts::default();
        }
        if let Ok(Reply::Status(status)) = self.session.request(Caller::ROOT, Operation::GetStatus).await {
            return status.synchronisation.counts;
        }
        tracing::warn!("the counts so far are not known: this synchronisation counts from here");
        SynchronisationCounts::default()
    }

    async fn begin(
        &self,
        settings: &VolumeSettings,
        after: Option<ObjectId>,
    ) -> Result<Join, SynchronisationError> {
        let configured = Side::BOTH
            .into_iter()
            .filter(|side| settings.region(*side).is_some());
        let configured = configured.fold(Sides::NONE, Sides::with);
        let grace = i64::try_from(self.options.orphan_grace.as_secs()).unwrap_or(i64::MAX);
        // The position moves on between two synchronisations, so each verifies another share.
        let seed = match self.session.request(Caller::ROOT, Operation::GetStatus).await? {
            Reply::Status(status) => status.position.0,
            _ => 0,
        };
        let rules = Rules {
            configured,
            orphans_before_seconds: (self.options.clock)().saturating_sub(grace),
            verified_of_10000: self.options.verified_of_10000,
            seed,
        };
        let listings = Side::BOTH.map(|side| configured.contains(side).then(|| Listing::new(after)));
        Ok(Join {
            records: Records::new(self.session.clone(), after),
            listings,
            rules,
        })
    }

    fn bucket(&self, side: Side) -> Result<Arc<dyn Bucket>, SynchronisationError> {
        self.buckets
            .bucket(side)
            .ok_or(SynchronisationError::NoBucket(side))
    }

    /// Joins one stretch of names and looks closely at what is suspect in it.
    async fn batch(&self, join: &mut Join) -> Result<Batch, SynchronisationError> {
        let mut suspects = Vec::new();
        let mut findings = Findings::default();
        let mut until = None;
        let mut finished = false;
        for _ in 0..BATCH_OBJECTS {
            let record = join.records.peek().await?;
            let mut entries = [None; 2];
            for side in join.rules.configured.iter() {
                let bucket = self.bucket(side)?;
                if let Some(listing) = &mut join.listings[side as usize] {
                    let entry = listing.peek(&*bucket).await;
                    entries[side as usize] =
                        entry.map_err(|error| SynchronisationError::Bucket { side, error })?;
                }
            }
            let names = record.iter().map(|record| record.object);
            let Some(object) = names
                .chain(entries.iter().flatten().map(|entry| entry.object))
                .min()
            else {
                finished = true;
                let foreign: u64 = join
                    .listings
                    .iter()
                    .flatten()
                    .map(|listing| listing.foreign_keys)
                    .sum();
                if foreign > 0 {
                    tracing::warn!(
                        foreign,
                        "the buckets hold keys among the objects that are not ours: left alone"
                    );
                }
                break;
            };
            let listed = Side::BOTH.map(|side| {
                let entry = entries[side as usize].filter(|entry| entry.object == object)?;
                if let Some(listing) = &mut join.listings[side as usize] {
                    listing.take();
                }
                Some(entry)
            });
            let suspect = match record.filter(|record| record.object == object) {
                Some(record) => {
                    join.records.take();
                    findings.counts.objects_checked += u64::from(record.live_bytes > 0);
                    join.rules.named(record, listed)
                }
                None => join.rules.unnamed(object, listed),
            };
            suspects.extend(suspect);
            until = Some(object);
            if suspects.len() >= BATCH_SUSPECTS {
                break;
            }
        }
        let memory_units = self.options.memory_bytes / MEMORY_UNIT_BYTES;
        let memory_units = u32::try_from(memory_units).unwrap_or(u32::MAX).max(1);
        let memory = Semaphore::new(memory_units as usize);
        let rules = join.rules;
        let mut looked_at = stream::iter(suspects)
            .map(|suspect| self.look_closely(suspect, rules, &memory, memory_units))
            .buffered(PARALLEL);
        while let Some(found) = looked_at.try_next().await? {
            findings.absent.extend(found.absent);
            findings.present.extend(found.present);
            add(&mut findings.counts, &found.counts);
        }
        Ok(Batch {
            findings,
            until,
            finished,
        })
    }
}

fn add(total: &mut SynchronisationCounts, more: &SynchronisationCounts) {
    let SynchronisationCounts {
        objects_checked,
        missing,
        damaged,
        lost,
        orphans_removed,
        checksums_verified,
    } = more;
    total.objects_checked += objects_checked;
    total.missing += missing;
    total.damaged += damaged;
    total.lost += lost;
    total.orphans_removed += orphans_removed;
    total.checksums_verified += checksums_verified;
}

fn same_buckets(one: &VolumeSettings, other: &VolumeSettings) -> bool {
    one.primary == other.primary && one.target == other.target
}
