//! A tree of real source files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, make_directory};
use twinshore_testbed::tree::{Selection, known_source_trees};

use super::Amounts;
use crate::measure::PATIENCE;
use crate::report::Sample;
use crate::subject::Subject;

/// Files of the tree that is unpacked.
const TREE_FILES: usize = 4681;

/// Packs about so many files of a source tree that this machine has into an archive; how many they are.
pub async fn pack_tree(archive: &Path, files: usize) -> Result<usize, Failure> {
    for root in known_source_trees().iter().filter(|root| root.is_dir()) {
        // Up to a quarter more, as whole directories are taken.
        let part =
            Selection::part(root, files, files + files / 4).map_err(Failure::io("read a source tree"))?;
        if part.files >= files {
            Run::new("tar", PATIENCE)
                .arguments([Path::new("-C"), &part.root, Path::new("-cf"), archive])
                .arguments(&part.names)
                .success()
                .await?;
            return Ok(part.files);
        }
    }
    Err(Failure::Wrong(format!(
        "no source tree with {files} files was found: install the sources of Rust or Go"
    )))
}

/// Unpacks an archive into a new directory.
pub async fn untar(archive: &Path, directory: &Path) -> Result<Duration, Failure> {
    make_directory(directory).await?;
    let started = Instant::now();
    Run::new("tar", PATIENCE)
        .arguments([Path::new("-C"), directory, Path::new("-xf"), archive])
        .success()
        .await?;
    Ok(started.elapsed())
}

async fn timed(run: Run) -> Result<Duration, Failure> {
    let started = Instant::now();
    run.success().await?;
    Ok(started.elapsed())
}

/// Unpacks it, searches it cold and warm, removes it.
pub async fn source_tree<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let work = tempfile::tempdir().map_err(Failure::io("make a directory to work in"))?;
    let archive = work.path().join("tree.tar");
    let files = pack_tree(&archive, amounts.of(TREE_FILES)).await?;
    let tree = subject.root().join("tree");
    let mut samples = Vec::new();
    let meter = subject.meter()?;
    meter.quiet().await?;
    let unpacked = meter.measure(files, untar(&archive, &tree)).await?;
    samples.push(Sample::rate("untar of source files", files, unpacked));
    subject.cold().await?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    for what in ["grep -r, cold", "grep -r, warm"] {
        let measured = meter.measure(files, timed(search(&tree))).await?;
        samples.push(Sample::rate(what, files, measured));
    }
    meter.quiet().await?;
    let remove = Run::new("rm", PATIENCE)
        .arguments(["-r", "-f", "--"])
        .argument(&tree);
    let removed = meter.measure(files, timed(remove)).await?;
    samples.push(Sample::rate("rm -rf of the tree", files, removed));
    Ok(samples)
}

/// Looks for what is nowhere, so that every file is read whole. `grep` ends with 1 then, which is no failure.
fn search(tree: &PathBuf) -> Run {
    Run::new("sh", PATIENCE)
        .arguments(["-c", "grep -r needle_that_is_nowhere \"$0\"; test $? -eq 1"])
        .argument(tree)
}
