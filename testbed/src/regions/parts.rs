//! Starting, ending and killing the parts.

use std::ffi::OsString;
use std::time::Duration;

use super::{PATIENCE, Region, Regions, RegionsError, failed};
use crate::mount_table;
use crate::patience::{Look, wait_for};
use crate::process::Supervised;

impl Regions {
    /// Starts the metadata service, in east. It must not be running.
    pub async fn start_metadata(&mut self) -> Result<(), RegionsError> {
        let mut arguments: Vec<OsString> = vec![
            "metadata".into(),
            "--dir".into(),
            self.metadata_directory().into(),
        ];
        arguments.extend(["--listen".into(), self.metadata_address.to_string().into()]);
        arguments.extend(["--http".into(), self.http_address.to_string().into()]);
        arguments.extend(self.bucket_arguments(Region::East).map(OsString::from));
        let program = self.program("metadata".to_owned(), "metadata: serving".to_owned(), arguments);
        self.metadata = Some(Supervised::start(&program).await?);
        Ok(())
    }

    /// Starts a region's worker. It must not be running.
    pub async fn start_worker(&mut self, region: Region) -> Result<(), RegionsError> {
        let mut arguments: Vec<OsString> = vec![
            "worker".into(),
            "--metadata".into(),
            self.metadata_url(region).into(),
        ];
        arguments.extend(self.bucket_arguments(region).map(OsString::from));
        if region == Region::West {
            arguments.push("--flip".into());
        }
        let program = self.program(format!("worker-{region}"), "worker: ready".to_owned(), arguments);
        self.workers[region.index()] = Some(Supervised::start(&program).await?);
        Ok(())
    }

    /// Mounts the volume in a region. It must not be mounted.
    pub async fn start_mount(&mut self, region: Region) -> Result<(), RegionsError> {
        let mount_point = self.mount_point(region);
        let mut arguments: Vec<OsString> = vec!["mount".into(), "--foreground".into()];
        arguments.extend(self.mount_arguments(region));
        let program = self.program(format!("mount-{region}"), "mount: ready".to_owned(), arguments);
        let mounted = Supervised::start(&program).await?;
        self.mounts[region.index()] = Some(mounted);
        let found = mount_table::mounted_at(&mount_point).map_err(failed("read the mount table"))?;
        if found.is_none() {
            return Err(RegionsError::NotRunning {
                what: format!("the mount in {region}"),
            });
        }
        Ok(())
    }

    /// What `mount` is told in a region, the mount point last.
    pub fn mount_arguments(&self, region: Region) -> Vec<OsString> {
        let mount_point = self.mount_point(region);
        let mut arguments: Vec<OsString> = vec!["--metadata".into(), self.metadata_url(region).into()];
        arguments.extend(self.bucket_arguments(region).map(OsString::from));
        let cache = self.options.directory.join("caches").join(region.name());
        arguments.extend(["--cache-dir".into(), cache.into()]);
        let mount_arguments = &self.options.mount_arguments;
        if !mount_arguments.iter().any(|argument| argument == "--cache-size") {
            arguments.extend(["--cache-size", "1024"].map(OsString::from));
        }
        if region == Region::West {
            arguments.push("--flip".into());
        }
        arguments.extend(mount_arguments.iter().map(OsString::from));
        arguments.push(mount_point.into());
        arguments
    }

    /// Unmounts with `twinshore umount`, which flushes, and waits for the process to end. If it fails, the mount is detached and
    /// its process killed, and the failure returned. Nothing happens if it is not mounted.
    pub async fn unmount(&mut self, region: Region) -> Result<(), RegionsError> {
        let Some(mut mount) = self.mounts[region.index()].take() else {
            return Ok(());
        };
        let mount_point = self.mount_point(region);
        let asked = self
            .twinshore(PATIENCE)
            .argument("umount")
            .argument(&mount_point)
            .success()
            .await;
        let ended = match asked {
            Ok(_) => mount.end(PATIENCE).await.map(|_| ()).map_err(RegionsError::from),
            Err(error) => Err(error.into()),
        };
        // After a success there is nothing left to do for these two.
        mount.kill().await?;
        mount_table::detach(&mount_point).map_err(failed(format!("detach {}", mount_point.display())))?;
        ended
    }

    /// `kill -9` of the metadata service.
    pub async fn kill_metadata(&mut self) -> Result<(), RegionsError> {
        let Some(mut metadata) = self.metadata.take() else {
            return Err(RegionsError::NotRunning {
                what: "the metadata service".to_owned(),
            });
        };
        Ok(metadata.kill().await?)
    }

    /// Stops the metadata service as its operator would.
    pub async fn stop_metadata(&mut self) -> Result<(), RegionsError> {
        let Some(mut metadata) = self.metadata.take() else {
            return Err(RegionsError::NotRunning {
                what: "the metadata service".to_owned(),
            });
        };
        metadata.terminate(PATIENCE).await?;
        Ok(())
    }

    /// `kill -9` of a region's worker.
    pub async fn kill_worker(&mut self, region: Region) -> Result<(), RegionsError> {
        let Some(mut worker) = self.workers[region.index()].take() else {
            return Err(RegionsError::NotRunning {
                what: format!("the worker in {region}"),
            });
        };
        Ok(worker.kill().await?)
    }

    /// `kill -9` of a region's mount; its dead mount point is detached.
    pub async fn kill_mount(&mut self, region: Region) -> Result<(), RegionsError> {
        let Some(mut mount) = self.mounts[region.index()].take() else {
            return Err(RegionsError::NotRunning {
                what: format!("the mount in {region}"),
            });
        };
        mount.kill().await?;
        let mount_point = self.mount_point(region);
        mount_table::detach(&mount_point).map_err(failed(format!("detach {}", mount_point.display())))
    }

    /// SIGTERM to a region's mount, as when a machine is shut down: within `patience` nothing is mounted any more. What is left of the
    /// process then (it may still want to say goodbye to the metadata service) is killed.
    pub async fn ask_mount_to_end(&mut self, region: Region, patience: Duration) -> Result<(), RegionsError> {
        let Some(mut mount) = self.mounts[region.index()].take() else {
            return Err(RegionsError::NotRunning {
                what: format!("the mount in {region}"),
            });
        };
        let mount_point = self.mount_point(region);
        mount.ask_to_end()?;
        let gone = wait_for(
            &format!("the end of the mount in {region}"),
            patience,
            async || match mount_table::mounted_at(&mount_point) {
                Ok(None) => Look::Done(()),
                Ok(Some(_)) => Look::NotYet("it is still mounted".to_owned()),
                Err(error) => Look::NotYet(error.to_string()),
            },
        )
        .await;
        mount.kill().await?;
        mount_table::detach(&mount_point).map_err(failed(format!("detach {}", mount_point.display())))?;
        Ok(gone?)
    }
}
