//! The suites: names, what they need, how long they may take.

use std::time::Duration;

use twinshore_testbed::failure::Failure;
use twinshore_testbed::regions::Region;
use twinshore_testbed::s3server::Engine;

use crate::context::{Context, Setting};
use crate::{
    coherence, compaction, conformance, crashes, exerciser, input, locks, outages, programs, races,
    replication, scale, takeover,
};

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// pjdfstest in east.
    PosixEast,
    /// pjdfstest in west.
    PosixWest,
    /// fsx on one mount.
    FsxEast,
    /// fsx on the flipped mount.
    FsxWest,
    /// Random operations on one file through both mounts in turn.
    FsxBoth,
    /// What one region does, the other sees.
    Coherence,
    /// Locks across the mounts.
    Locks,
    /// Pairs of namespace operations at once.
    Races,
    /// kill -9 of the metadata service.
    KillMetadata,
    /// kill -9 of a mount.
    KillMount,
    /// kill -9 of the process of a mount, whose successor goes on.
    Takeover,
    /// kill -9 of a worker.
    KillWorker,
    /// A bucket stops and returns.
    BucketOutage,
    /// The line is cut and heals.
    LineOutage,
    /// The second bucket comes, replication goes and comes, while programs write.
    SecondBucket,
    /// Fragmented files and sparse objects.
    Compaction,
    /// git in both regions.
    Git,
    /// sqlite from both regions at once.
    Sqlite,
    /// tar and rsync.
    TarAndRsync,
    /// A compiler works on the volume.
    Compiler,
    /// A directory of 200,000 entries.
    LargeDirectory,
    /// Bad input.
    BadInput,
    /// 10 GB with a bound on memory.
    TenGigabytes,
}

impl Suite {
    /// All, the most telling first.
    pub const ALL: [Self; 23] = [
        Self::PosixEast,
        Self::PosixWest,
        Self::FsxEast,
        Self::FsxWest,
        Self::FsxBoth,
        Self::Coherence,
        Self::Locks,
        Self::Races,
        Self::KillMetadata,
        Self::KillMount,
        Self::Takeover,
        Self::KillWorker,
        Self::BucketOutage,
        Self::LineOutage,
        Self::SecondBucket,
        Self::Compaction,
        Self::Git,
        Self::Sqlite,
        Self::TarAndRsync,
        Self::Compiler,
        Self::LargeDirectory,
        Self::BadInput,
        Self::TenGigabytes,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::PosixEast => "pjdfstest-east",
            Self::PosixWest => "pjdfstest-west",
            Self::FsxEast => "fsx-east",
            Self::FsxWest => "fsx-west",
            Self::FsxBoth => "fsx-both",
            Self::Coherence => "coherence",
            Self::Locks => "locks",
            Self::Races => "races",
            Self::KillMetadata => "kill-metadata",
            Self::KillMount => "kill-mount",
            Self::Takeover => "takeover",
            Self::KillWorker => "kill-worker",
            Self::BucketOutage => "bucket-outage",
            Self::LineOutage => "line-outage",
            Self::SecondBucket => "second-bucket",
            Self::Compaction => "compaction",
            Self::Git => "git",
            Self::Sqlite => "sqlite",
            Self::TarAndRsync => "tar-rsync",
            Self::Compiler => "compiler",
            Self::LargeDirectory => "large-directory",
            Self::BadInput => "bad-input",
            Self::TenGigabytes => "ten-gigabytes",
        }
    }

    /// What it shows.
    pub fn about(self) -> &'static str {
        match self {
            Self::PosixEast => "pjdfstest in east: no failure, every skip explained",
            Self::PosixWest => "pjdfstest in west (flip)",
            Self::FsxEast => "fsx in east",
            Self::FsxWest => "fsx in west (flip)",
            Self::FsxBoth => "random operations on one file through both mounts in turn",
            Self::Coherence => {
                "what one region does to names, attributes and content, the other sees at once"
            }
            Self::Locks => "flock and POSIX locks exclude across the mounts, and go with their holder",
            Self::Races => {
                "two regions race on pairs of namespace operations; one order explains the outcome"
            }
            Self::KillMetadata => {
                "kill -9 of the metadata service during writes: what was fsynced or closed is there"
            }
            Self::KillMount => "kill -9 of a mount during writes: what was fsynced or closed is there",
            Self::Takeover => {
                "kill -9 of a mount's process, again and again: another goes on, no program notices"
            }
            Self::KillWorker => "kill -9 of a worker during copies: both buckets end up the same",
            Self::BucketOutage => "a bucket stops during writes: nothing fails, and it catches up",
            Self::LineOutage => "the line between the regions is cut and heals: nothing is lost",
            Self::SecondBucket => {
                "a volume in use gets its second bucket; replication is switched off and on; nothing fails"
            }
            Self::Compaction => {
                "overwritten and deleted bytes leave the buckets while files are read and written"
            }
            Self::Git => "git in both regions on one repository",
            Self::Sqlite => "sqlite from both regions at once",
            Self::TarAndRsync => "tar and rsync of a source tree",
            Self::Compiler => "cargo builds a program that lies on the volume",
            Self::LargeDirectory => "a directory of 200,000 entries, listed while it changes",
            Self::BadInput => "bad input gives a clear error and loses nothing",
            Self::TenGigabytes => "10 GB of writes with a bound on the memory of the mount",
        }
    }

    /// The regions it wants.
    pub fn setting(self, engines: [Engine; 2]) -> Setting {
        let round_trip_ms = match self {
            // Thousands of calls one after the other: the distance would only make them slow.
            Self::PosixEast
            | Self::PosixWest
            | Self::FsxEast
            | Self::FsxWest
            | Self::FsxBoth
            | Self::Races => 2,
            _ => 10,
        };
        Setting {
            round_trip: Duration::from_millis(round_trip_ms),
            engines,
            with_target: self != Self::SecondBucket,
        }
    }

    /// After this it has failed.
    pub fn patience(self) -> Duration {
        let minutes = match self {
            Self::LargeDirectory => 20,
            Self::TenGigabytes | Self::SecondBucket | Self::Compaction => 15,
            Self::Compiler => 8,
            _ => 5,
        };
        Duration::from_mins(minutes)
    }

    /// Runs it.
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::PosixEast => conformance::pjdfstest(context, Region::East).await,
            Self::PosixWest => conformance::pjdfstest(context, Region::West).await,
            Self::FsxEast => conformance::fsx(context, Region::East).await,
            Self::FsxWest => conformance::fsx(context, Region::West).await,
            Self::FsxBoth => exerciser::both_mounts_in_turn(context).await,
            Self::Coherence => coherence::run(context).await,
            Self::Locks => locks::run(context).await,
            Self::Races => races::run(context).await,
            Self::KillMetadata => crashes::kill_metadata(context).await,
            Self::KillMount => crashes::kill_mount(context).await,
            Self::Takeover => takeover::run(context).await,
            Self::KillWorker => crashes::kill_worker(context).await,
            Self::BucketOutage => outages::bucket(context).await,
            Self::LineOutage => outages::line(context).await,
            Self::SecondBucket => replication::second_bucket(context).await,
            Self::Compaction => compaction::run(context).await,
            Self::Git => programs::git(context).await,
            Self::Sqlite => programs::sqlite(context).await,
            Self::TarAndRsync => programs::tar_and_rsync(context).await,
            Self::Compiler => programs::compiler(context).await,
            Self::LargeDirectory => scale::large_directory(context).await,
            Self::BadInput => input::run(context).await,
            Self::TenGigabytes => scale::ten_gigabytes(context).await,
        }
    }
}
