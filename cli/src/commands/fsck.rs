//! `twinshore fsck`.

use twinshore_metadata::core::check;
use twinshore_metadata::journal::directory::{DataDirectory, DirectoryOptions};
use twinshore_metadata::service::recovery;

use crate::arguments::FsckArguments;
use crate::error::CommandError;

/// How many problems are printed: the first ones tell what is wrong.
const PROBLEMS_SHOWN: usize = 100;

/// Replays the journal and checks that the state does not contradict itself. Raises the epoch, as a start of the service does,
/// and changes nothing else.
pub fn run(arguments: &FsckArguments) -> Result<(), CommandError> {
    let what = format!("check the metadata in {}", arguments.metadata_dir.display());
    let directory = DataDirectory::open(&arguments.metadata_dir, None, DirectoryOptions::default());
    let DataDirectory {
        format,
        mut journal,
        mut view,
        lock: _lock,
    } = directory.map_err(CommandError::failed(what.clone()))?;
    let tail = recovery::recover(&mut journal, &mut view, format.volume)
        .map_err(CommandError::failed(what.clone()))?;
    let problems = check::consistency(&view).map_err(CommandError::failed(what))?;
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        println!("fsck: {problem}");
    }
    println!(
        "fsck: checked up to record {}: {} problems",
        tail.position,
        problems.len()
    );
    if problems.is_empty() {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "{} has {} problems: restore it from a bucket with `twinshore volume restore` into another directory, and report this",
        arguments.metadata_dir.display(),
        problems.len()
    )))
}
