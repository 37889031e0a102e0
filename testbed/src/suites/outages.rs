//! What is between the parts fails: a bucket stops, the line is cut.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;
use twinshore_testbed::wan::Direction;

use crate::context::{Context, ensure};

const PATIENCE: Duration = Duration::from_secs(90);

/// Larger than what rides in the metadata.
const SIZE_BYTES: usize = 200_000;

/// Files of each region in each situation.
const FILES: u8 = 12;

async fn write(context: &Context, region: Region, name: &str) -> Result<(), Failure> {
    let directory = context.path(region, &format!("{name}-{region}"));
    blocking(&format!("writing in {region}: {name}"), PATIENCE, move || {
        fs::create_dir(&directory).map_err(Failure::io("make a directory"))?;
        for number in 0..FILES {
            let path = directory.join(number.to_string());
            fs::write(&path, vec![number; SIZE_BYTES])
                .map_err(Failure::io(format!("write {}", path.display())))?;
        }
        Ok(())
    })
    .await
}

async fn read(context: &Context, region: Region, writer: Region, name: &str) -> Result<(), Failure> {
    let directory: PathBuf = context.path(region, &format!("{name}-{writer}"));
    blocking(
        &format!("reading in {region}: {name} of {writer}"),
        PATIENCE,
        move || {
            for number in 0..FILES {
                let path = directory.join(number.to_string());
                let found = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
                ensure(found == vec![number; SIZE_BYTES], || {
                    format!("{} is not what was written", path.display())
                })?;
            }
            Ok(())
        },
    )
    .await
}

/// Each bucket in turn stops; both regions write and read; it returns and catches up.
pub async fn bucket(context: &mut Context) -> Result<(), Failure> {
    for stopped in Region::BOTH {
        let (before, during) = (format!("before-{stopped}"), format!("without-{stopped}"));
        for region in Region::BOTH {
            write(context, region, &before).await?;
        }
        context.regions.wait_in_step(PATIENCE, |_| {}).await?;
        context.regions.bucket_mut(stopped).stop().await?;
        for region in Region::BOTH {
            write(context, region, &during).await?;
        }
        for reader in Region::BOTH {
            for writer in Region::BOTH {
                read(context, reader, writer, &before).await?;
                read(context, reader, writer, &during).await?;
            }
        }
        let owed = context.regions.status().await?;
        let owed = owed.side(stopped.side()).map_or(0, |side| side.pending_objects);
        ensure(owed > 0, || {
            format!("nothing is owed to {stopped} although its bucket is stopped")
        })?;
        context.regions.bucket_mut(stopped).start().await?;
        context.both_buckets_are_equal(PATIENCE).await?;
        println!("  without the bucket of {stopped}: {owed} objects were owed, and arrived");
    }
    Ok(())
}

/// The line is cut: east goes on. It heals: west goes on, nothing is lost.
pub async fn line(context: &mut Context) -> Result<(), Failure> {
    for region in Region::BOTH {
        write(context, region, "before").await?;
    }
    context.regions.wait_in_step(PATIENCE, |_| {}).await?;
    context.regions.wan().cut();
    write(context, Region::East, "cut").await?;
    read(context, Region::East, Region::West, "before").await?;
    context.regions.wan().heal();
    context.regions.wan().break_connections();
    write(context, Region::West, "healed").await?;
    for reader in Region::BOTH {
        read(context, reader, Region::East, "cut").await?;
        read(context, reader, Region::West, "healed").await?;
    }
    println!("  cut and healed with broken connections");
    // Half open: requests arrive, answers do not.
    context.regions.wan().cut_direction(Direction::EastToWest);
    write(context, Region::East, "half-open").await?;
    context.regions.wan().heal();
    write(context, Region::West, "whole").await?;
    for reader in Region::BOTH {
        read(context, reader, Region::East, "half-open").await?;
        read(context, reader, Region::West, "whole").await?;
    }
    println!("  half open and healed");
    context.both_buckets_are_equal(PATIENCE).await
}
