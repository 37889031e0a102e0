//! Programs that people use: a database and version control.

use std::fs;
use std::time::Instant;

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::Failure;

use super::Amounts;
use super::trees::{pack_tree, untar};
use crate::measure::PATIENCE;
use crate::report::Sample;
use crate::subject::Subject;

/// Files of the repository.
const REPOSITORY_FILES: usize = 2300;

/// Transactions one after the other, each durable before the next.
pub async fn sqlite<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let count = amounts.of(1000);
    let work = tempfile::tempdir().map_err(Failure::io("make a directory to work in"))?;
    let path = subject.root().join("database.sqlite");
    let script = "INSERT INTO t (filler) VALUES (hex(randomblob(50)));\n".repeat(count);
    let file = work.path().join("transactions.sql");
    fs::write(
        &file,
        format!("CREATE TABLE t (id INTEGER PRIMARY KEY, filler TEXT);\n{script}"),
    )
    .map_err(Failure::io("write a script"))?;
    let meter = subject.meter()?;
    meter.quiet().await?;
    let transactions = async {
        let started = Instant::now();
        Run::new("sqlite3", PATIENCE)
            .arguments(["-batch", "-bail"])
            .argument(&path)
            .argument(format!(".read {}", file.display()))
            .success()
            .await?;
        Ok(started.elapsed())
    };
    let measured = meter.measure(count, transactions).await?;
    Ok(vec![Sample::rate(
        "sqlite, one durable transaction each",
        count,
        measured,
    )])
}

/// A repository of the local disk, cloned into the volume.
pub async fn git_clone<S: Subject>(subject: &mut S, amounts: Amounts) -> Result<Vec<Sample>, Failure> {
    let work = tempfile::tempdir().map_err(Failure::io("make a directory to work in"))?;
    let archive = work.path().join("tree.tar");
    let files = pack_tree(&archive, amounts.of(REPOSITORY_FILES)).await?;
    let repository = work.path().join("repository");
    untar(&archive, &repository).await?;
    for arguments in [
        ["init", "-q", "."].as_slice(),
        &["add", "--force", "--all", "."],
        &["commit", "-q", "-m", "All"],
        &["repack", "-a", "-d", "-q"],
    ] {
        Run::git(&repository, PATIENCE)
            .arguments(arguments)
            .success()
            .await?;
    }
    let clone = subject.root().join("clone");
    let meter = subject.meter()?;
    meter.quiet().await?;
    let cloning = async {
        let started = Instant::now();
        Run::git(work.path(), PATIENCE)
            .arguments(["clone", "-q", "--no-hardlinks"])
            .arguments([&repository, &clone])
            .success()
            .await?;
        Ok(started.elapsed())
    };
    let measured = meter.measure(files, cloning).await?;
    Ok(vec![Sample::seconds("git clone of 2,300 files", measured)])
}
