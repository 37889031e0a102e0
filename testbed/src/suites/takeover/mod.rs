//! `kill -9` of a mount's process, again and again, while programs work: another process goes on, and no program notices.
//!
//! Programs check every byte that they read and every name that they look for. In the end the other region must see what they left. How long
//! the mount was away is printed; nothing is required of it, as machines differ.

mod keeper;
mod programs;

use std::path::PathBuf;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

pub use self::programs::{Work, work};

use self::keeper::Keeper;
use self::programs::Programs;
use crate::context::{Context, ensure};

/// How often the process is replaced.
const KILLS: u32 = 40;

/// Every so often it is asked to end instead, as for an upgrade.
const ASKED: u32 = 8;

/// For the programs to end, and what they left to be compared.
const PATIENCE: Duration = Duration::from_mins(2);

/// Kills.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    let seed: u64 = rand::rng().random();
    println!("  seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let region = Region::East;
    context.regions.unmount(region).await?;
    let mut keeper = Keeper::start(&context.regions, region).await?;
    let programs = Programs::start(&context.regions.mount_point(region), seed).await?;
    let mut pauses = Vec::new();
    for kill in 1..=KILLS {
        let pause = Duration::from_millis(random.random_range(5..700));
        tokio::time::sleep(pause).await;
        programs.check()?;
        let away = keeper.replace(kill % ASKED == 0).await?;
        pauses.push(away);
    }
    pauses.sort_unstable();
    let at = |part: usize| pauses[(pauses.len() - 1) * part / 100].as_millis();
    println!(
        "  {KILLS} processes; from the kill until the next answer: half within {} ms, 95 % within {} ms, at most {} ms",
        at(50),
        at(95),
        at(100)
    );
    let left = programs.finish(PATIENCE).await?;
    let mounts = Region::BOTH.map(|region| context.regions.mount_point(region));
    for (region, mount_point) in Region::BOTH.into_iter().zip(mounts) {
        let left = left.clone();
        blocking("looking at what the programs left", PATIENCE, move || {
            left.iter().try_for_each(|left| left.check(&mount_point, region))
        })
        .await?;
    }
    println!(
        "  {} files and directories are as the programs left them, in both regions",
        left.len()
    );
    keeper.end().await?;
    context.regions.start_mount(region).await?;
    let mount_point: PathBuf = context.regions.mount_point(region);
    blocking("looking again", PATIENCE, move || {
        left.iter().try_for_each(|left| left.check(&mount_point, region))
    })
    .await?;
    ensure(pauses.len() == KILLS as usize, || {
        "a kill was not measured".to_owned()
    })
}
