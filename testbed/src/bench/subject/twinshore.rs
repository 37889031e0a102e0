//! A mount of Twinshore in one of two regions.

use std::path::PathBuf;

use twinshore_testbed::failure::Failure;
use twinshore_testbed::regions::{Region, Regions, RegionsError};

use super::Subject;
use crate::measure::{Meter, Part};

/// A mount.
pub struct Twinshore<'a> {
    /// The regions.
    pub regions: &'a mut Regions,
    /// Where it is mounted.
    pub region: Region,
}

impl Subject for Twinshore<'_> {
    fn root(&self) -> PathBuf {
        self.regions.mount_point(self.region)
    }

    async fn cold(&mut self) -> Result<(), Failure> {
        self.regions.unmount(self.region).await?;
        let cache = self.regions.directory().join("caches").join(self.region.name());
        if cache.exists() {
            std::fs::remove_dir_all(&cache).map_err(Failure::io("remove the cache"))?;
        }
        Ok(self.regions.start_mount(self.region).await?)
    }

    fn meter(&self) -> Result<Meter, Failure> {
        let regions = &self.regions;
        let missing = |what: &str| {
            Failure::from(RegionsError::NotRunning {
                what: what.to_owned(),
            })
        };
        let service = regions
            .metadata_process()
            .ok_or_else(|| missing("the metadata service"))?;
        let mount = regions
            .mount_process(self.region)
            .ok_or_else(|| missing("the mount"))?;
        let mut processes = vec![
            (Part::Service, service.process_id()),
            (Part::Mount, mount.process_id()),
        ];
        let worker = regions.worker_process(self.region);
        processes.extend(worker.map(|worker| (Part::Worker, worker.process_id())));
        processes.extend(
            regions
                .bucket(self.region)
                .process_id()
                .map(|process| (Part::Store, process)),
        );
        Ok(Meter {
            processes,
            metrics: Some(regions.http_address()),
        })
    }
}
