//! The command lines of claims and snapshots.

// The comments are the help texts that a terminal shows: there Markdown would only be in the way.
#![allow(clippy::doc_markdown)]

use clap::{Args, Subcommand};
use twinshore_protocol::claims::{ClaimKey, DirectoryPath, Label, SnapshotKey};

use crate::arguments::ServiceArguments;
use crate::units::size;

/// Which, and how to show them.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Only those of the cluster in this region.
    #[arg(long)]
    pub region: Option<Label>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `twinshore claim`.
#[derive(Debug, Subcommand)]
pub enum ClaimCommand {
    /// List claims: which PVC of which cluster holds which directory.
    ///
    /// Example: twinshore claim list --metadata http://127.0.0.1:7700 --region east
    List(ListArguments),
    /// Show a claim, and who has access to its directory.
    ///
    /// Example: twinshore claim show --metadata http://127.0.0.1:7700 east/pvc-0b5c
    Show {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// Its key, as `claim list` shows it.
        #[arg(id = "claim-key", value_name = "KEY")]
        key: ClaimKey,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Claim a directory by hand: it is made if it is missing, and can be neither moved nor removed while it is claimed.
    ///
    /// Example: twinshore claim create --metadata http://127.0.0.1:7700 east/by-hand /team/data --size 10GiB
    Create {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// The key: a region, and a name that is used once there.
        #[arg(id = "claim-key", value_name = "KEY")]
        key: ClaimKey,
        /// The directory.
        path: DirectoryPath,
        /// How many bytes it may hold.
        #[arg(long, value_parser = size, default_value = "0", hide_default_value = true)]
        size: u64,
        /// Begin with a copy of this claim's directory.
        #[arg(long, value_name = "CLAIM", conflicts_with = "from_snapshot")]
        from_claim: Option<ClaimKey>,
        /// Begin with what this snapshot holds.
        #[arg(long, value_name = "SNAPSHOT")]
        from_snapshot: Option<SnapshotKey>,
    },
    /// Give a claim up, for a cluster that is no more. With the last one its directory goes to the trash.
    ///
    /// Example: twinshore claim release --metadata http://127.0.0.1:7700 west/pvc-77aa --yes
    Release {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// Its key, as `claim list` shows it.
        #[arg(id = "claim-key", value_name = "KEY")]
        key: ClaimKey,
        /// Do it. Without this, only tells what would be done.
        #[arg(long)]
        yes: bool,
    },
}

/// `twinshore snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots.
    ///
    /// Example: twinshore snapshot list --metadata http://127.0.0.1:7700 --json
    List(ListArguments),
    /// Make a snapshot of a claim's directory and wait until it is complete.
    ///
    /// Example: twinshore snapshot create --metadata http://127.0.0.1:7700 east/before-upgrade east/pvc-0b5c
    Create {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// Its key: a region, and a name that is used once there.
        #[arg(id = "snapshot-key", value_name = "KEY")]
        key: SnapshotKey,
        /// The claim.
        claim: ClaimKey,
    },
    /// Remove a snapshot for good.
    ///
    /// Example: twinshore snapshot delete --metadata http://127.0.0.1:7700 east/before-upgrade
    Delete {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// Its key, as `snapshot list` shows it.
        #[arg(id = "snapshot-key", value_name = "KEY")]
        key: SnapshotKey,
    },
}
