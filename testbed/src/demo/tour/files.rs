//! Copying in, comparing, searching.

use std::time::Instant;

use twinshore_testbed::commands::Run;
use twinshore_testbed::progress::{bytes, rate};
use twinshore_testbed::regions::Region;
use twinshore_testbed::tree::{Manifest, Names};

use super::Tour;
use twinshore_testbed::failure::{Failure, blocking, make_directory, same};

/// Readers at a time in west: one alone would mostly wait for the line.
const READERS: usize = 16;

/// A word of every language that the input may be written in.
const WORD: &str = "return";

impl Tour<'_> {
    /// `cp -a` of the input into the mount in east.
    pub async fn copy_into_east(&mut self) -> Result<(), Failure> {
        let target = self.source(Region::East);
        self.progress.say(&format!(
            "east: copying {} files into {}",
            self.input.files,
            target.display()
        ));
        let started = Instant::now();
        make_directory(&target).await?;
        Run::new("cp", self.patience)
            .directory(&self.input.root)
            .arguments(["-a", "--"])
            .arguments(&self.input.names)
            .argument(&target)
            .success()
            .await?;
        let took = started.elapsed();
        let found = format!(
            "{} files, {}, {}",
            self.expected.files(),
            bytes(self.expected.bytes()),
            rate(self.expected.files(), took)
        );
        self.progress.row("copy a source tree into east", found, took);
        Ok(())
    }

    /// What a region sees of the source tree.
    pub async fn read_source(&self, region: Region, readers: usize) -> Result<Manifest, Failure> {
        let root = self.source(region);
        let what = format!("reading the tree in {region}");
        blocking(&what.clone(), self.patience, move || {
            Manifest::read(&root, Names::Except(&[".git"]), readers).map_err(Failure::io(what))
        })
        .await
    }

    /// SHA-256 of every file in west against the input.
    pub async fn compare_in_west(&mut self) -> Result<(), Failure> {
        self.progress
            .say("west: comparing SHA-256 of every file with the input");
        let started = Instant::now();
        let found = self.read_source(Region::West, READERS).await?;
        same(&self.expected, &found, "the input", "west")?;
        let took = started.elapsed();
        let result = format!("{} files identical, {}", found.files(), rate(found.files(), took));
        self.progress.row("compare SHA-256 in west", result, took);
        Ok(())
    }

    /// `grep -r` in west finds what it finds in the input.
    pub async fn search_in_west(&mut self) -> Result<(), Failure> {
        self.progress.say(&format!("west: grep -r {WORD}"));
        let grep = |root| {
            Run::new("grep", self.patience)
                .directory(root)
                .arguments(["-r", "-l", "-F", WORD, "--"])
                .arguments(&self.input.names)
        };
        let in_input = sorted_lines(&grep(&self.input.root).success().await?.stdout);
        let root = self.source(Region::West);
        let started = Instant::now();
        let in_west = sorted_lines(&grep(&root).success().await?.stdout);
        let took = started.elapsed();
        if in_west != in_input {
            let (west, input) = (in_west.len(), in_input.len());
            return Err(Failure::Wrong(format!(
                "grep finds {west} files in west, {input} in the input"
            )));
        }
        let result = format!(
            "the same {} files as in the input, {}",
            in_west.len(),
            rate(self.input.files, took)
        );
        self.progress.row("grep -r in west", result, took);
        Ok(())
    }
}

fn sorted_lines(output: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    lines.sort();
    lines
}
