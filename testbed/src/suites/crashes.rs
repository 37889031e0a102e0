//! `kill -9` of each part in the middle of writes. What a program was told is durable (`fsync` or `close` returned) must be there.

use std::fs;
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};
use crate::writers::{Acknowledged, Writers};

/// How often the metadata service is killed.
const KILLS: u32 = 3;

/// Files that must have been acknowledged between two kills: some, whatever the speed of the machine.
const ACKNOWLEDGED: usize = 40;

/// For a killed part's clients to find its successor and go on.
const RECOVERY: Duration = Duration::from_secs(90);

/// For a mount that nobody uses to end: well below what a request to a service that is gone takes to fail (a minute).
const ENDING: Duration = Duration::from_secs(40);

async fn check_all(context: &Context, region: Region, files: &[Acknowledged]) -> Result<(), Failure> {
    let (mount_point, files) = (context.regions.mount_point(region), files.to_vec());
    blocking("reading back", Duration::from_secs(200), move || {
        for file in files {
            let path = mount_point.join(&file.path);
            let found = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
            ensure(found == file.content(), || {
                format!(
                    "{} was closed with {} bytes and now has {} (or others)",
                    path.display(),
                    file.size_bytes,
                    found.len()
                )
            })?;
        }
        Ok(())
    })
    .await
}

/// The metadata service: its clients wait for its successor and no program notices.
pub async fn kill_metadata(context: &mut Context) -> Result<(), Failure> {
    let mounts = Region::BOTH.map(|region| (region, context.regions.mount_point(region)));
    let writers = Writers::start(&mounts, "service").await?;
    for _ in 0..KILLS {
        writers.wait_for_more(ACKNOWLEDGED, RECOVERY).await?;
        context.regions.kill_metadata().await?;
        context.regions.start_metadata().await?;
    }
    writers.wait_for_more(ACKNOWLEDGED, RECOVERY).await?;
    let (files, ends) = writers.finish(RECOVERY).await?;
    ends.into_iter().collect::<Result<(), _>>()?;
    println!("  {KILLS} kills, {} files acknowledged", files.len());
    // Not from caches: new mounts.
    for region in Region::BOTH {
        context.regions.unmount(region).await?;
        context.regions.start_mount(region).await?;
        check_all(context, region, &files).await?;
    }
    context.both_buckets_are_equal(RECOVERY).await?;
    // A machine is shut down after the service has gone: with nothing unwritten a mount needs nobody to end.
    context.regions.kill_metadata().await?;
    for region in Region::BOTH {
        context.regions.ask_mount_to_end(region, ENDING).await?;
    }
    context.regions.start_metadata().await?;
    for region in Region::BOTH {
        context.regions.start_mount(region).await?;
        check_all(context, region, &files).await?;
    }
    Ok(())
}

/// A mount: its programs fail, what they had finished is there.
pub async fn kill_mount(context: &mut Context) -> Result<(), Failure> {
    let mut files = Vec::new();
    for region in Region::BOTH {
        let mounts = [(region, context.regions.mount_point(region))];
        let writers = Writers::start(&mounts, "mount").await?;
        writers.wait_for_more(ACKNOWLEDGED, RECOVERY).await?;
        context.regions.kill_mount(region).await?;
        let (acknowledged, _) = writers.finish(RECOVERY).await?;
        println!("  {region}: {} files acknowledged", acknowledged.len());
        check_all(context, region.other(), &acknowledged).await?;
        context.regions.start_mount(region).await?;
        check_all(context, region, &acknowledged).await?;
        files.extend(acknowledged);
    }
    context.both_buckets_hold_what_is_named(RECOVERY).await?;
    check_all(context, Region::East, &files).await
}

/// A worker: its copies are done by others, or by its successor.
pub async fn kill_worker(context: &mut Context) -> Result<(), Failure> {
    let mounts = Region::BOTH.map(|region| (region, context.regions.mount_point(region)));
    let writers = Writers::start(&mounts, "worker").await?;
    for region in Region::BOTH {
        writers.wait_for_more(ACKNOWLEDGED, RECOVERY).await?;
        context.regions.kill_worker(region).await?;
        writers.wait_for_more(ACKNOWLEDGED, RECOVERY).await?;
        context.regions.start_worker(region).await?;
    }
    let (files, ends) = writers.finish(RECOVERY).await?;
    ends.into_iter().collect::<Result<(), _>>()?;
    println!("  {} files acknowledged", files.len());
    context.both_buckets_are_equal(RECOVERY).await?;
    check_all(context, Region::West, &files).await
}
