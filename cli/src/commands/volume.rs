//! `twinshore volume`.

use std::path::Path;

use twinshore_metadata::archive;
use twinshore_metadata::core::VolumeLimits;
use twinshore_metadata::journal::directory::{DirectoryOptions, UnfinishedDirectory, read_volume};
use twinshore_metadata::service::shell::create_volume;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::{Operation, Side, VolumeId};
use twinshore_storage::bucket::Bucket;

use super::client::Client;
use super::{destroy, status};
use crate::arguments::{
    CompressionArgument, ConfigureArguments, DurabilityArgument, RestoreArguments, SetTargetArguments,
    Switch, VolumeCommand, VolumeCreateArguments,
};
use crate::buckets;
use crate::error::CommandError;

/// Seconds of a day.
const DAY_SECONDS: u64 = 86_400;
/// A week: how often a full synchronisation runs unless told otherwise.
const SYNCHRONISATION_INTERVAL_SECONDS: u64 = 7 * DAY_SECONDS;
/// More inline data than this per write would crowd the journal out.
const INLINE_LIMIT_MAX_BYTES: u64 = 64 << 10;
/// The longest name of a volume: a DNS label, so that it can name Kubernetes objects.
const VOLUME_NAME_MAX: usize = 63;

/// Creates, changes or restores a volume.
pub async fn run(command: VolumeCommand) -> Result<(), CommandError> {
    match command {
        VolumeCommand::Create(arguments) => create(arguments).await,
        VolumeCommand::SetTarget(arguments) => set_target(arguments).await,
        VolumeCommand::Configure(arguments) => configure(arguments).await,
        VolumeCommand::Restore(arguments) => restore(arguments).await,
        VolumeCommand::Destroy(arguments) => destroy::run(arguments).await,
    }
}

async fn create(arguments: VolumeCreateArguments) -> Result<(), CommandError> {
    check_name(&arguments.name)?;
    if arguments.if_missing && is_there(&arguments)? {
        return Ok(());
    }
    let inline_limit_bytes = u32::try_from(arguments.inline_limit)
        .ok()
        .filter(|limit| u64::from(*limit) <= INLINE_LIMIT_MAX_BYTES)
        .ok_or_else(|| CommandError::Usage("--inline-limit: at most 64KiB".to_owned()))?;
    let settings = VolumeSettings {
        primary: RegionFormat {
            name: arguments.region,
            bucket: arguments.bucket,
        },
        target: arguments.bucket2.map(|bucket| RegionFormat {
            name: arguments.region2,
            bucket,
        }),
        replication_enabled: true,
        compression: compression(arguments.compression),
        durability: durability(arguments.durability),
        inline_limit_bytes,
        trash_retention_seconds: arguments.trash_days * DAY_SECONDS,
        synchronisation_interval_seconds: SYNCHRONISATION_INTERVAL_SECONDS,
        bandwidth_limit_bytes_per_second: [0, 0],
    };
    let format = VolumeFormat {
        version: FORMAT_VERSION,
        volume: arguments
            .id
            .unwrap_or_else(|| VolumeId(*uuid::Uuid::new_v4().as_bytes())),
        name: arguments.name,
        encryption: Encryption::None,
        settings,
    };
    buckets::check_different(&format.settings)?;
    let in_directory = || format!("create the metadata in {}", arguments.metadata_dir.display());
    let opened = buckets::open_and_check(&format.settings, &arguments.credentials).await?;
    // Before the buckets are marked: a mark of a volume that does not come about would keep the next attempt from them.
    UnfinishedDirectory::begin(&arguments.metadata_dir, DirectoryOptions::default())
        .map_err(CommandError::failed(in_directory()))?;
    for (side, bucket) in Side::BOTH.into_iter().zip(opened) {
        if let Some(bucket) = bucket {
            claim(&*bucket, side, &format).await?;
        }
    }
    let limits = VolumeLimits {
        bytes: arguments.capacity,
        inodes: arguments.inodes,
    };
    create_volume(&arguments.metadata_dir, &format, limits).map_err(CommandError::failed(in_directory()))?;
    println!("volume: created {} ({})", format.name, format.volume);
    println!(
        "next: twinshore metadata --dir {}",
        arguments.metadata_dir.display()
    );
    Ok(())
}

/// Does the directory hold the volume that is to be made? Another one there is an error.
fn is_there(arguments: &VolumeCreateArguments) -> Result<bool, CommandError> {
    let directory = &arguments.metadata_dir;
    let present =
        read_volume(directory).map_err(CommandError::failed(format!("look into {}", directory.display())))?;
    let Some(present) = present else {
        return Ok(false);
    };
    if arguments.id.is_some_and(|id| id != present.volume) || present.name != arguments.name {
        return Err(CommandError::Usage(format!(
            "{} holds the volume {} ({}), which is another: choose an empty directory",
            directory.display(),
            present.name,
            present.volume
        )));
    }
    println!("volume: {} ({}) is there", present.name, present.volume);
    Ok(true)
}

async fn claim(bucket: &dyn Bucket, side: Side, format: &VolumeFormat) -> Result<(), CommandError> {
    archive::claim_bucket(bucket, format)
        .await
        .map_err(CommandError::failed(format!(
            "take the bucket of the {side} region into use"
        )))
}

fn check_name(name: &str) -> Result<(), CommandError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty()
        || name.len() > VOLUME_NAME_MAX
        || !name.bytes().all(allowed)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(CommandError::Usage(format!(
            "`{name}` cannot name a volume: 1 to 63 lower case letters, digits and `-`, not at the ends"
        )));
    }
    Ok(())
}

async fn set_target(arguments: SetTargetArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "volume set-target").await?;
    let format = status::fetch(&client).await?.format;
    let mut settings = format.settings.clone();
    if let Some(present) = &settings.target
        && present.bucket != arguments.bucket2
    {
        return Err(CommandError::Usage(format!(
            "the volume already has the target {} at {}: moving to another bucket is not possible yet",
            present.name, present.bucket
        )));
    }
    let region = RegionFormat {
        name: arguments.region2,
        bucket: arguments.bucket2,
    };
    settings.target = Some(region.clone());
    settings.replication_enabled = true;
    buckets::check_different(&settings)?;
    let with_target = VolumeFormat {
        settings: settings.clone(),
        ..format
    };
    let bucket = buckets::open_url(&region.bucket, Side::Target, &arguments.credentials).await?;
    buckets::check(&*bucket, Side::Target).await?;
    claim(&*bucket, Side::Target, &with_target).await?;
    client
        .request("set the target", Operation::SetSettings { settings })
        .await?;
    client.close().await;
    println!("volume: what exists is copied in the background; `twinshore status` shows the lag");
    Ok(())
}

async fn configure(arguments: ConfigureArguments) -> Result<(), CommandError> {
    let ConfigureArguments {
        service,
        replication,
        compression: new_compression,
        durability: new_durability,
        trash_days,
        sync_days,
        bandwidth_limit,
    } = arguments;
    let client = Client::connect(&service, "volume configure").await?;
    let mut settings = status::fetch(&client).await?.format.settings;
    if let Some(replication) = replication {
        settings.replication_enabled = replication == Switch::On;
    }
    if let Some(argument) = new_compression {
        settings.compression = compression(argument);
    }
    if let Some(argument) = new_durability {
        settings.durability = durability(argument);
    }
    if let Some(days) = trash_days {
        settings.trash_retention_seconds = days * DAY_SECONDS;
    }
    if let Some(days) = sync_days {
        settings.synchronisation_interval_seconds = days * DAY_SECONDS;
    }
    if let Some(limit) = bandwidth_limit {
        settings.bandwidth_limit_bytes_per_second = [limit; 2];
    }
    client
        .request("change the settings", Operation::SetSettings { settings })
        .await?;
    client.close().await;
    Ok(())
}

async fn restore(arguments: RestoreArguments) -> Result<(), CommandError> {
    let bucket = buckets::open_url(&arguments.bucket, Side::Primary, &arguments.credentials).await?;
    let restored = archive::restore(&*bucket, Path::new(&arguments.metadata_dir))
        .await
        .map_err(CommandError::failed(format!(
            "restore the metadata from {}",
            arguments.bucket
        )))?;
    println!(
        "volume: restored {} ({}) up to record {} of epoch {}",
        restored.format.name, restored.format.volume, restored.position, restored.epoch
    );
    println!(
        "next: twinshore metadata --dir {}",
        arguments.metadata_dir.display()
    );
    Ok(())
}

fn compression(argument: CompressionArgument) -> Compression {
    match argument {
        CompressionArgument::None => Compression::None,
        CompressionArgument::Lz4 => Compression::Lz4,
        CompressionArgument::Zstd => Compression::Zstd,
    }
}

fn durability(argument: DurabilityArgument) -> Durability {
    match argument {
        DurabilityArgument::Close => Durability::Close,
        DurabilityArgument::Fsync => Durability::Fsync,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_like_a_kubernetes_object() {
        assert!(check_name("documents-2").is_ok());
        for wrong in ["", "-a", "a-", "Documents", "a_b", "a/b", &"a".repeat(64)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
