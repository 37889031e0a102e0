//! The tour: what a person would try, in order, each step checked.

mod database;
mod files;
mod history;
mod outage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshore_testbed::progress::Progress;
use twinshore_testbed::regions::{Region, Regions};
use twinshore_testbed::tree::{Manifest, Names, Selection, known_source_trees};

use crate::options::Options;
use twinshore_testbed::failure::{Failure, blocking};

/// Files that make a tree worth looking at.
const FILES_MIN: usize = 1000;
/// How many are taken of a larger tree, so that the tour stays short.
const FILES_ENOUGH: usize = 1500;
/// And at most.
const FILES_MAX: usize = 2500;
/// The tree's name in the volume.
const SOURCE: &str = "source";

/// What the steps share.
struct Tour<'a> {
    regions: &'a mut Regions,
    progress: &'a mut Progress,
    /// What is copied into the volume.
    input: Selection,
    /// What must be found in the volume's `source`, in both regions.
    expected: Manifest,
    /// A directory on the local disk.
    work: PathBuf,
    /// What a step may take: more for larger inputs.
    patience: Duration,
}

impl Tour<'_> {
    fn source(&self, region: Region) -> PathBuf {
        self.regions.mount_point(region).join(SOURCE)
    }
}

/// Takes the tour.
pub async fn run(regions: &mut Regions, progress: &mut Progress, options: &Options) -> Result<(), Failure> {
    let input = choose_input(options.input.as_deref())?;
    let (root, files) = (input.root.clone(), input.files);
    progress.say(&format!("input: {files} files of {}", root.display()));
    let names = input.names.clone();
    let expected = blocking("read the input", Duration::from_mins(10), move || {
        Manifest::read(&root, Names::Only(&names), 4).map_err(Failure::io("read the input"))
    })
    .await?;
    let work = regions.directory().join("work");
    std::fs::create_dir_all(&work).map_err(Failure::io("make a directory to work in"))?;
    // A step on the default input takes seconds: a minute, and a tenth of a second for each file over a distance.
    let patience =
        Duration::from_mins(1) + Duration::from_millis(100) * u32::try_from(files).unwrap_or(u32::MAX);
    let mut tour = Tour {
        regions,
        progress,
        input,
        expected,
        work,
        patience,
    };
    tour.copy_into_east().await?;
    tour.commit_in_east().await?;
    tour.compare_in_west().await?;
    tour.search_in_west().await?;
    tour.check_and_clone_in_west().await?;
    tour.commit_in_west_and_see_it_in_east().await?;
    tour.database_from_both_sides().await?;
    tour.lag_falls_to_zero().await?;
    tour.both_buckets_hold_the_same("list both buckets").await?;
    tour.east_bucket_stops_and_returns().await?;
    tour.regions.check_processes()?;
    Ok(())
}

fn choose_input(given: Option<&Path>) -> Result<Selection, Failure> {
    if let Some(root) = given {
        let all = Selection::all(root).map_err(Failure::io(format!("read {}", root.display())))?;
        if all.files == 0 {
            return Err(Failure::Wrong(format!(
                "there are no files in {}",
                root.display()
            )));
        }
        return Ok(all);
    }
    let trees = known_source_trees();
    for root in trees.iter().filter(|root| root.is_dir()) {
        let part = Selection::part(root, FILES_ENOUGH, FILES_MAX)
            .map_err(Failure::io(format!("read {}", root.display())))?;
        if part.files >= FILES_MIN {
            return Ok(part);
        }
    }
    Err(Failure::Wrong(format!(
        "no source tree with {FILES_MIN} files was found ({}): give one with --input DIR",
        trees
            .iter()
            .map(|tree| tree.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    )))
}
