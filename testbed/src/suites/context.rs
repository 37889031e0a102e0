//! What a suite works with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::patience::{Look, wait_for};
use twinshore_testbed::regions::{Region, Regions, RegionsOptions};
use twinshore_testbed::s3server::Engine;
use twinshore_testbed::tree::{Manifest, Names};

/// How the regions are to be.
pub struct Setting {
    /// From one to the other and back.
    pub round_trip: Duration,
    /// What serves the buckets of east and west.
    pub engines: [Engine; 2],
    /// The volume has both buckets from the beginning.
    pub with_target: bool,
}

/// Two new regions, and a place on the local disk.
pub struct Context {
    /// The regions.
    pub regions: Regions,
    /// An empty directory on the local disk.
    pub work: PathBuf,
    tools: Option<PathBuf>,
}

impl Context {
    /// Brings the regions up in a directory.
    pub async fn bring_up(
        directory: &Path,
        binary: &Path,
        tools: Option<PathBuf>,
        setting: Setting,
    ) -> Result<Self, Failure> {
        let work = directory.join("work");
        std::fs::create_dir_all(&work).map_err(Failure::io("make a directory to work in"))?;
        let options = RegionsOptions {
            directory: directory.to_owned(),
            bucket_directory: directory.join("buckets"),
            binary: binary.to_owned(),
            round_trip: setting.round_trip,
            engines: setting.engines,
            volume_arguments: Vec::new(),
            mount_arguments: Vec::new(),
        };
        let regions = if setting.with_target {
            Regions::bring_up(options, |_| {}).await?
        } else {
            Regions::bring_up_without_target(options, |_| {}).await?
        };
        Ok(Self { regions, work, tools })
    }

    /// A path as a region sees it.
    pub fn path(&self, region: Region, path: &str) -> PathBuf {
        self.regions.mount_point(region).join(path)
    }

    /// Mounts anew, with nothing cached.
    pub async fn remount_without_cache(&mut self, region: Region) -> Result<(), Failure> {
        self.regions.unmount(region).await?;
        let cache = self.regions.directory().join("caches").join(region.name());
        std::fs::remove_dir_all(&cache).map_err(Failure::io("remove the cache"))?;
        Ok(self.regions.start_mount(region).await?)
    }

    /// An external test program.
    pub fn tool(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self
            .tools
            .as_ref()
            .map(|tools| tools.join(name))
            .filter(|path| path.is_file());
        path.ok_or_else(|| {
            Failure::Wrong(format!(
                "{name} is not there: run `cargo xtask suites`, which builds it"
            ))
        })
    }

    /// Waits until nothing is owed to either side, and both buckets hold the same objects with the same bytes.
    pub async fn both_buckets_are_equal(&self, patience: Duration) -> Result<(), Failure> {
        self.regions.wait_in_step(patience, |_| {}).await?;
        let directories =
            Region::BOTH.map(|region| self.regions.bucket(region).bucket_directory().join("objects"));
        wait_for("both buckets to hold the same objects", patience, async || {
            let [east, west] = directories.clone().map(|directory| {
                tokio::task::spawn_blocking(move || Manifest::read(&directory, Names::All, 2))
            });
            match (east.await, west.await) {
                (Ok(Ok(east)), Ok(Ok(west))) => {
                    let differences = east
                        .only_content()
                        .differences(&west.only_content(), "east", "west");
                    if differences.is_empty() {
                        Look::Done(())
                    } else {
                        Look::NotYet(differences.join("; "))
                    }
                }
                // An object may be deleted while it is read.
                (east, west) => Look::NotYet(format!("{:?} {:?}", east.err(), west.err())),
            }
        })
        .await?;
        Ok(())
    }

    /// Waits until nothing is owed and both buckets hold, with the same bytes, as many objects as the metadata names. One of them may
    /// hold more: what a killed mount had stored and never named stays until a full synchronisation finds it old enough.
    pub async fn both_buckets_hold_what_is_named(&self, patience: Duration) -> Result<(), Failure> {
        let named = self.regions.wait_in_step(patience, |_| {}).await?.objects;
        let directories =
            Region::BOTH.map(|region| self.regions.bucket(region).bucket_directory().join("objects"));
        let common = blocking("comparing both buckets", patience, move || {
            let [east, west] = directories.map(|directory| {
                Manifest::read(&directory, Names::All, 2).map_err(Failure::io("list a bucket"))
            });
            let (east, west) = (east?.only_content(), west?.only_content());
            let mut common = 0;
            for (key, object) in &east.entries {
                match west.entries.get(key) {
                    Some(other) if other == object => common += 1,
                    Some(_) => {
                        return Err(Failure::Wrong(format!(
                            "{} differs between the buckets",
                            key.display()
                        )));
                    }
                    None => {}
                }
            }
            Ok(common)
        })
        .await?;
        ensure(common >= named, || {
            format!("both buckets hold {common} objects, the metadata names {named}")
        })
    }
}

/// Fails with a message unless a condition holds.
pub fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition {
        Ok(())
    } else {
        Err(Failure::Wrong(message()))
    }
}
