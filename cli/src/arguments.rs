//! The command line, in words of JuiceFS where they exist.

// The comments are the help texts that a terminal shows: there Markdown would only be in the way.
#![allow(clippy::doc_markdown)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use twinshore_protocol::tls::TlsFiles;

use twinshore_protocol::VolumeId;
use twinshore_protocol::claims::NodeName;

use crate::claim_arguments::{ClaimCommand, SnapshotCommand};
use crate::units::{size, size_in_mebibytes};

/// The identity of a volume, as `volume create` and `status` show it.
fn volume_id(text: &str) -> Result<VolumeId, String> {
    text.parse()
        .map_err(|_| "expected 32 hexadecimal digits, as in 6f1c2f6e-3c1b-4a53-9c2e-0f0d6f3f1f11".to_owned())
}

/// One POSIX volume on two shores: data in two buckets, metadata as one truth.
#[derive(Debug, Parser)]
#[command(name = "twinshore", version, propagate_version = true, max_term_width = 110)]
pub struct Arguments {
    /// Log as JSON, one object per line. `TWINSHORE_LOG` filters, for example `TWINSHORE_LOG=debug`.
    #[arg(long, global = true)]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, change and restore volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Serve the metadata of a volume.
    ///
    /// Example: twinshore metadata --dir /var/lib/twinshore --listen 127.0.0.1:7700
    Metadata(MetadataArguments),
    /// Copy objects between the two buckets, pack small data and synchronise.
    ///
    /// Example: twinshore worker --metadata http://127.0.0.1:7700
    Worker(WorkerArguments),
    /// Mount a volume.
    ///
    /// Example: twinshore mount --metadata http://127.0.0.1:7700 /mnt/twinshore
    Mount(MountArguments),
    /// Flush and unmount.
    ///
    /// Example: twinshore umount /mnt/twinshore
    Umount(UmountArguments),
    /// Show a volume: usage, replication and its lag, sessions.
    ///
    /// Example: twinshore status --metadata http://127.0.0.1:7700 --json
    Status(StatusArguments),
    /// Compare both buckets with the metadata and repair what differs (a full synchronisation).
    ///
    /// Example: twinshore sync --metadata http://127.0.0.1:7700 --wait
    Sync(SyncArguments),
    /// Show how much of the buckets no file uses any more and how fragmented files are, and tidy up.
    ///
    /// It happens by itself, for files that nobody has changed for a minute; `--compact` asks for all of it now.
    ///
    /// Example: twinshore gc --metadata http://127.0.0.1:7700 --compact --wait
    Gc(GcArguments),
    /// List and restore removed files.
    #[command(subcommand)]
    Trash(TrashCommand),
    /// Limit the bytes and inodes of a directory, or of the volume.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Directories that PVCs hold: list, show, make or give up.
    #[command(subcommand)]
    Claim(ClaimCommand),
    /// Snapshots of claimed directories: list, make or delete.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Check the metadata of a stopped service for contradictions.
    ///
    /// Example: twinshore fsck --metadata-dir /var/lib/twinshore
    Fsck(FsckArguments),
    /// Print a completion script for a shell.
    ///
    /// Example: twinshore completion bash > /etc/bash_completion.d/twinshore
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Credentials of both buckets. Without any, the standard credential chain of AWS is used.
///
/// Prefer the environment or files: arguments are visible in the process list.
#[derive(Args, Clone, Default)]
pub struct CredentialArguments {
    /// Access key of the primary region's bucket.
    #[arg(long, env = "ACCESS_KEY", hide_env_values = true)]
    pub access_key: Option<String>,
    /// Secret key of the primary region's bucket.
    #[arg(long, env = "SECRET_KEY", hide_env_values = true)]
    pub secret_key: Option<String>,
    /// Session token of the primary region's bucket.
    #[arg(long, env = "SESSION_TOKEN", hide_env_values = true)]
    pub session_token: Option<String>,
    /// Access key of the target region's bucket.
    #[arg(long, env = "ACCESS_KEY2", hide_env_values = true)]
    pub access_key2: Option<String>,
    /// Secret key of the target region's bucket.
    #[arg(long, env = "SECRET_KEY2", hide_env_values = true)]
    pub secret_key2: Option<String>,
    /// Session token of the target region's bucket.
    #[arg(long, env = "SESSION_TOKEN2", hide_env_values = true)]
    pub session_token2: Option<String>,
    /// A file with `access_key=`, `secret_key=`, `session_token=` lines for the primary region's bucket. Read again when it
    /// changes, without a restart.
    #[arg(long, env = "CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// The same for the target region's bucket.
    #[arg(long, env = "CREDENTIALS_FILE2", value_name = "FILE")]
    pub credentials_file2: Option<PathBuf>,
    /// A PEM file with certificates that the buckets' endpoints may be signed by, besides the system's.
    #[arg(long, env = "BUCKET_CA_FILE", value_name = "FILE")]
    pub bucket_ca_file: Option<PathBuf>,
    /// The region name that requests are signed for (AWS only needs it if it cannot be told from the URL).
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub signing_region: String,
    /// The same for the target region's bucket, if it is another.
    #[arg(long, value_name = "REGION")]
    pub signing_region2: Option<String>,
    /// How the primary region's bucket is named in requests; in the host's name on AWS and in the path elsewhere, if not given.
    #[arg(long, value_enum)]
    pub addressing_style: Option<AddressingStyle>,
    /// The same for the target region's bucket.
    #[arg(long, value_enum)]
    pub addressing_style2: Option<AddressingStyle>,
}

/// How a bucket is named in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AddressingStyle {
    /// In the path: https://HOST/BUCKET
    Path,
    /// In the host's name: https://BUCKET.HOST
    VirtualHost,
}

impl std::fmt::Debug for CredentialArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialArguments").finish_non_exhaustive()
    }
}

/// Where the buckets are, if not where the volume's format record says.
#[derive(Debug, Args, Clone, Default)]
pub struct BucketArguments {
    /// The primary region's bucket, if it is not reached under the volume's own URL from here.
    #[arg(long, value_name = "URL")]
    pub bucket: Option<String>,
    /// The target region's bucket, likewise.
    #[arg(long, value_name = "URL")]
    pub bucket2: Option<String>,
    /// Credentials.
    #[command(flatten)]
    pub credentials: CredentialArguments,
}

/// How to reach the metadata service.
#[derive(Debug, Args, Clone)]
pub struct ServiceArguments {
    /// The metadata service, such as http://127.0.0.1:7700
    #[arg(long = "metadata", env = "TWINSHORE_METADATA", value_name = "URL")]
    pub address: String,
    /// The certificate to show, for a service at https://.
    #[command(flatten)]
    pub tls: TlsArguments,
}

/// Mutual TLS: all three, or none. The files are read again for each connection, so renewed ones need no restart.
#[derive(Debug, Args, Clone)]
pub struct TlsArguments {
    /// The certificate of this part and the intermediates above it, PEM.
    #[arg(long = "tls-cert", env = "TWINSHORE_TLS_CERT", value_name = "FILE", requires_all = ["key", "authority"])]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long = "tls-key", env = "TWINSHORE_TLS_KEY", value_name = "FILE", requires_all = ["certificate", "authority"])]
    pub key: Option<PathBuf>,
    /// The certificate of the volume's authority, which the other end's certificate must come from, PEM.
    #[arg(long = "tls-ca", env = "TWINSHORE_TLS_CA", value_name = "FILE", requires_all = ["certificate", "key"])]
    pub authority: Option<PathBuf>,
}

impl TlsArguments {
    /// The files, if TLS is asked for.
    pub fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.certificate.clone()?,
            key: self.key.clone()?,
            authority: self.authority.clone()?,
        })
    }
}

/// How long to wait for a metadata service that is not up yet.
#[derive(Debug, Args, Clone, Copy)]
pub struct PatienceArguments {
    /// Wait so long for a metadata service that does not answer yet, then give up; 0 gives up at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub wait_service: u64,
}

/// How content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionArgument {
    /// As it is.
    None,
    /// Fast.
    Lz4,
    /// Smaller.
    Zstd,
}

/// When `close` and `fsync` return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArgument {
    /// `close` and `fsync` return when data and metadata are durable in the near region.
    Close,
    /// `fsync` does; closing a new file does not wait, and who reads it elsewhere waits until it is stored.
    Fsync,
}

/// Volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume: its metadata directory and its mark in the buckets.
    ///
    /// Example: twinshore volume create documents --metadata-dir /var/lib/twinshore --region east
    ///   --bucket http://127.0.0.1:9000/east --region2 west --bucket2 http://127.0.0.1:9001/west
    Create(VolumeCreateArguments),
    /// Give a volume its second bucket, while it is mounted; what exists is copied in the background.
    ///
    /// Example: twinshore volume set-target --metadata http://127.0.0.1:7700 --region2 west --bucket2 http://127.0.0.1:9001/west
    SetTarget(SetTargetArguments),
    /// Switch replication on or off, or change other settings, while the volume is mounted.
    ///
    /// Example: twinshore volume configure --metadata http://127.0.0.1:7700 --replication off
    Configure(ConfigureArguments),
    /// Rebuild the metadata of a volume from one of its buckets, after everything else was lost.
    ///
    /// Example: twinshore volume restore --bucket http://127.0.0.1:9001/west --metadata-dir /var/lib/twinshore-new
    Restore(RestoreArguments),
    /// Remove everything that a volume has in its buckets, for ever. Its service and workers must be stopped.
    ///
    /// Example: twinshore volume destroy --id 6f1c2f6e-3c1b-4a53-9c2e-0f0d6f3f1f11 --bucket http://127.0.0.1:9000/east --yes
    Destroy(DestroyArguments),
}

/// `twinshore volume create`.
#[derive(Debug, Args)]
pub struct VolumeCreateArguments {
    /// Lower case letters, digits and `-`, at most 63.
    pub name: String,
    /// The volume's identity, for who knows it before; a new one without it. With it, an attempt that failed can be repeated.
    #[arg(long, value_name = "UUID", value_parser = volume_id)]
    pub id: Option<VolumeId>,
    /// If the directory holds this volume already, leave it as it is.
    #[arg(long)]
    pub if_missing: bool,
    /// Where the metadata service will keep its state: an empty or new directory.
    #[arg(long, value_name = "DIR")]
    pub metadata_dir: PathBuf,
    /// Name of the primary region.
    #[arg(long, default_value = "primary")]
    pub region: String,
    /// Its bucket: http(s)://HOST:PORT/BUCKET[/PREFIX], s3://BUCKET[/PREFIX] or file:///DIR
    #[arg(long, value_name = "URL")]
    pub bucket: String,
    /// Name of the target region.
    #[arg(long, default_value = "target")]
    pub region2: String,
    /// Its bucket. Without it the volume has one region until `volume set-target`.
    #[arg(long, value_name = "URL")]
    pub bucket2: Option<String>,
    /// Credentials.
    #[command(flatten)]
    pub credentials: CredentialArguments,
    /// Compression of new objects.
    #[arg(long, value_enum, default_value = "none")]
    pub compression: CompressionArgument,
    /// When `close` and `fsync` return.
    #[arg(long, value_enum, default_value = "close")]
    pub durability: DurabilityArgument,
    /// A write of at most this size that must become durable is committed inline with the metadata.
    #[arg(long, value_parser = size, default_value = "16KiB", value_name = "SIZE")]
    pub inline_limit: u64,
    /// How many days removed files can be restored; 0 removes at once.
    #[arg(long, default_value_t = 1, value_name = "DAYS")]
    pub trash_days: u64,
    /// Limit of the volume in bytes; `twinshore quota set /` changes it later.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub capacity: Option<u64>,
    /// Limit of the volume in inodes.
    #[arg(long, value_name = "COUNT")]
    pub inodes: Option<u64>,
}

/// `twinshore volume set-target`.
#[derive(Debug, Args)]
pub struct SetTargetArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Name of the target region.
    #[arg(long)]
    pub region2: String,
    /// Its bucket.
    #[arg(long, value_name = "URL")]
    pub bucket2: String,
    /// Credentials, to check that the bucket can be used before anything changes.
    #[command(flatten)]
    pub credentials: CredentialArguments,
}

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// `twinshore volume configure`.
#[derive(Debug, Args)]
pub struct ConfigureArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Whether new objects are copied to the other side.
    #[arg(long, value_enum)]
    pub replication: Option<Switch>,
    /// Compression of new objects.
    #[arg(long, value_enum)]
    pub compression: Option<CompressionArgument>,
    /// When `close` and `fsync` return.
    #[arg(long, value_enum)]
    pub durability: Option<DurabilityArgument>,
    /// How many days removed files can be restored.
    #[arg(long, value_name = "DAYS")]
    pub trash_days: Option<u64>,
    /// Days between two full synchronisations; 0 for never.
    #[arg(long, value_name = "DAYS")]
    pub sync_days: Option<u64>,
    /// Bytes per second that may be copied to each side; 0 for no limit.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub bandwidth_limit: Option<u64>,
}

/// `twinshore volume restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The bucket that survived.
    #[arg(long, value_name = "URL")]
    pub bucket: String,
    /// Where the metadata service will keep its state: an empty or new directory.
    #[arg(long, value_name = "DIR")]
    pub metadata_dir: PathBuf,
    /// Credentials (those of the primary: --access-key, --secret-key).
    #[command(flatten)]
    pub credentials: CredentialArguments,
}

/// `twinshore volume destroy`.
#[derive(Debug, Args)]
pub struct DestroyArguments {
    /// The volume's identity. A bucket of another volume is refused.
    #[arg(long, value_name = "UUID", value_parser = volume_id)]
    pub id: VolumeId,
    /// The primary region's bucket.
    #[arg(long, value_name = "URL")]
    pub bucket: String,
    /// The target region's bucket, if it has one.
    #[arg(long, value_name = "URL")]
    pub bucket2: Option<String>,
    /// Do it. Without this, only tells what would be removed.
    #[arg(long)]
    pub yes: bool,
    /// Credentials.
    #[command(flatten)]
    pub credentials: CredentialArguments,
}

/// `twinshore metadata`.
#[derive(Debug, Args)]
pub struct MetadataArguments {
    /// Its state: made by `volume create` or `volume restore`.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Where clients and workers connect.
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// With it, clients and workers need certificates of the same authority; without it, anybody may connect.
    #[command(flatten)]
    pub tls: TlsArguments,
    /// Where /metrics and /healthz are served.
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// The buckets, for checkpoints and journal segments.
    #[command(flatten)]
    pub buckets: BucketArguments,
}

/// `twinshore worker`.
#[derive(Debug, Args)]
pub struct WorkerArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Whether to wait for it.
    #[command(flatten)]
    pub patience: PatienceArguments,
    /// This worker runs in the target region: its near bucket is the target's.
    #[arg(long)]
    pub flip: bool,
    /// How many objects to copy at a time.
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    pub slots: u32,
    /// Memory for objects under way.
    #[arg(long, value_parser = size_in_mebibytes, default_value = "256", value_name = "MIB")]
    pub buffer_size: u64,
    /// The buckets.
    #[command(flatten)]
    pub buckets: BucketArguments,
}

/// `twinshore mount`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own for the user.
pub struct MountArguments {
    /// Where to mount.
    pub mount_point: PathBuf,
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Whether to wait for it.
    #[command(flatten)]
    pub patience: PatienceArguments,
    /// This mount is in the target region: its near bucket is the target's.
    #[arg(long)]
    pub flip: bool,
    /// This mount takes no replication tasks.
    #[arg(long)]
    pub no_sync: bool,
    /// Mount read-only.
    #[arg(long)]
    pub read_only: bool,
    /// Mount a directory of the volume instead of its root.
    #[arg(long, value_name = "PATH")]
    pub subdir: Option<String>,
    /// The node of a cluster whose pods this mount serves: access that they were given counts as long as it lives.
    #[arg(long, value_name = "REGION/NODE")]
    pub node: Option<NodeName>,
    /// Where to cache on local disk. Without it only memory is used.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Size of the disk cache; a plain number is in MiB.
    #[arg(long, value_parser = size_in_mebibytes, default_value = "10240", value_name = "MIB")]
    pub cache_size: u64,
    /// Memory for writing, reading ahead and the memory cache; a plain number is in MiB.
    #[arg(long, value_parser = size_in_mebibytes, default_value = "300", value_name = "MIB")]
    pub buffer_size: u64,
    /// Stay in the foreground (the default is to return when the mount is usable).
    #[arg(long)]
    pub foreground: bool,
    /// Serve a mount that another process has made: standard input is the /dev/fuse that it was made with, and MOUNT_POINT only says
    /// where. Needs no privilege, stays in the foreground, and cannot unmount.
    #[arg(long, requires = "foreground")]
    pub device_from_stdin: bool,
    /// Keep in this file, which should lie in memory, what another process needs to go on with the mount when this one has ended, however it
    /// ends. If an earlier process has left something in it, this one goes on from there: the device must be the same, and that process
    /// must have ended. Asked to stop, the process then writes everything out, and leaves the rest to the next one.
    #[arg(long, requires = "device_from_stdin", value_name = "FILE")]
    pub logbook: Option<PathBuf>,
    /// Write logs to this file when in the background.
    #[arg(long, value_name = "FILE", default_value = "/var/log/twinshore.log")]
    pub log_file: PathBuf,
    /// The buckets.
    #[command(flatten)]
    pub buckets: BucketArguments,
}

/// `twinshore umount`.
#[derive(Debug, Args)]
pub struct UmountArguments {
    /// What to unmount.
    pub mount_point: PathBuf,
    /// Write everything out, then take the mount away from its place; programs that use it go on until they close.
    #[arg(long, conflicts_with = "force")]
    pub lazy: bool,
    /// Cut the connection: waiting programs get errors, and what is not written is lost.
    #[arg(long)]
    pub force: bool,
}

/// `twinshore status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `twinshore sync`.
#[derive(Debug, Args)]
pub struct SyncArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Wait for the end, showing progress. Fails if an object is in neither bucket, or if there is no worker to do it.
    #[arg(long)]
    pub wait: bool,
}

/// `twinshore gc`.
#[derive(Debug, Args)]
pub struct GcArguments {
    /// The service.
    #[command(flatten)]
    pub service: ServiceArguments,
    /// Have a worker write anew what is left of sparse objects and of fragmented files, however young.
    #[arg(long)]
    pub compact: bool,
    /// Wait for the end, showing progress.
    #[arg(long, requires = "compact")]
    pub wait: bool,
}

/// `twinshore trash`.
#[derive(Debug, Subcommand)]
pub enum TrashCommand {
    /// List removed files and directories, oldest first.
    List {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
    },
    /// Give a removed file its old name again, or another.
    ///
    /// Example: twinshore trash restore --metadata http://127.0.0.1:7700 4711
    Restore {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// The inode number that `trash list` shows.
        inode: u64,
        /// Where to, as a path in the volume; its old place by default.
        #[arg(long, value_name = "PATH")]
        to: Option<String>,
    },
    /// Remove for ever what was removed more than some seconds ago.
    ///
    /// Example: twinshore trash purge --metadata http://127.0.0.1:7700 --older-than-seconds 3600 --yes
    Purge {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// Only what was removed longer ago than this.
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        older_than_seconds: u64,
        /// Do it. Without this, only tells what would be removed.
        #[arg(long)]
        yes: bool,
    },
}

/// `twinshore quota`.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Limit a directory; `/` is the volume.
    ///
    /// Example: twinshore quota set --metadata http://127.0.0.1:7700 /projects --size 10GiB --inodes 100000
    Set {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// The directory, as a path in the volume.
        path: String,
        /// Limit in bytes; none without it.
        #[arg(long, value_parser = size)]
        size: Option<u64>,
        /// Limit in inodes; none without it.
        #[arg(long)]
        inodes: Option<u64>,
    },
    /// Show what a directory uses and its limits.
    Get {
        /// The service.
        #[command(flatten)]
        service: ServiceArguments,
        /// The directory, as a path in the volume.
        path: String,
    },
}

/// `twinshore fsck`.
#[derive(Debug, Args)]
pub struct FsckArguments {
    /// The state of a metadata service that is not running.
    #[arg(long, value_name = "DIR")]
    pub metadata_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let arguments = super::CredentialArguments {
            secret_key: Some("hunter2".to_owned()),
            ..Default::default()
        };
        assert!(!format!("{arguments:?}").contains("hunter2"));
    }
}
