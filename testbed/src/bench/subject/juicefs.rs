//! JuiceFS beside Twinshore, if it is installed, with Redis and the same S3 server.
//!
//! As durable as its flags allow: Redis syncs its log to disk at each write (`appendfsync always`), JuiceFS writes back nothing
//! later, and its trash is on for a day as Twinshore's is.

// It is the name of a product, not of an item.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::Failure;
use twinshore_testbed::mount_table;
use twinshore_testbed::process::{Program, Ready, Supervised};
use twinshore_testbed::regions::is_installed;
use twinshore_testbed::s3server::{S3Server, free_address};

use super::Subject;
use crate::measure::{Meter, Part};

/// For it to start, to mount and to unmount.
const PATIENCE: Duration = Duration::from_mins(1);

/// The name of its volume and of its bucket.
const NAME: &str = "juicefs";

/// JuiceFS, mounted.
pub struct Juicefs {
    work: PathBuf,
    metadata: String,
    redis: Option<Supervised>,
    mount: Option<Supervised>,
    store: Option<i32>,
}

impl Juicefs {
    /// Formats and mounts a volume, with all its files below `work` and its data on the S3 server. `None` if it, or a Redis for
    /// it, is not there.
    pub async fn mount(work: &Path, redis: Option<&str>, server: &S3Server) -> Result<Option<Self>, Failure> {
        if !is_installed("juicefs") {
            println!("juicefs is not on the PATH: nothing is run beside Twinshore");
            return Ok(None);
        }
        let (metadata, redis) = match redis {
            Some(address) => (address.to_owned(), None),
            None if is_installed("redis-server") => {
                let (metadata, redis) = start_redis(work).await?;
                (metadata, Some(redis))
            }
            None => {
                println!("there is no redis-server on the PATH and no --redis: JuiceFS is left out");
                return Ok(None);
            }
        };
        // The server keeps each bucket in a directory beside ours.
        let bucket = server.bucket_directory().with_file_name(NAME);
        std::fs::create_dir_all(bucket).map_err(Failure::io("make a bucket for JuiceFS"))?;
        Run::new("juicefs", PATIENCE)
            .environment("ACCESS_KEY", &server.keys().access_key)
            .environment("SECRET_KEY", &server.keys().secret_key)
            .arguments(["format", "--storage", "s3", "--trash-days", "1", "--bucket"])
            .argument(format!("http://{}/{NAME}", server.address()))
            .arguments([metadata.as_str(), NAME])
            .success()
            .await?;
        let mut juicefs = Self {
            work: work.to_owned(),
            metadata,
            redis,
            mount: None,
            store: server.process_id(),
        };
        juicefs.start().await?;
        Ok(Some(juicefs))
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let root = self.root();
        std::fs::create_dir_all(&root).map_err(Failure::io("make a mount point"))?;
        let mut arguments: Vec<OsString> = ["mount", "--no-usage-report", "--no-syslog"]
            .map(OsString::from)
            .into();
        arguments.extend(["--cache-dir".into(), self.work.join("juicefs-cache").into()]);
        arguments.extend([self.metadata.clone().into(), root.clone().into()]);
        let program = Program {
            name: "juicefs".to_owned(),
            program: "juicefs".into(),
            arguments,
            environment: Vec::new(),
            log_directory: self.work.join("logs"),
            ready: Ready::Mounted(root),
            patience: PATIENCE,
        };
        self.mount = Some(Supervised::start(&program).await?);
        Ok(())
    }

    async fn unmount(&mut self) -> Result<(), Failure> {
        if let Some(mut mount) = self.mount.take() {
            let root = self.root();
            Run::new("juicefs", PATIENCE)
                .argument("umount")
                .argument(&root)
                .success()
                .await?;
            mount.end(PATIENCE).await?;
        }
        Ok(())
    }

    /// Unmounts it and ends its Redis.
    pub async fn end(mut self) -> Result<(), Failure> {
        let unmounted = self.unmount().await;
        if let Some(mut redis) = self.redis.take() {
            redis.terminate(PATIENCE).await?;
        }
        unmounted
    }
}

impl Drop for Juicefs {
    fn drop(&mut self) {
        // The process is killed first: detaching could wait for it.
        if self.mount.take().is_some()
            && let Err(error) = mount_table::detach(&self.root())
        {
            eprintln!("{} could not be detached: {error}", self.root().display());
        }
    }
}

async fn start_redis(work: &Path) -> Result<(String, Supervised), Failure> {
    let address = free_address()?;
    let directory = work.join("redis");
    std::fs::create_dir_all(&directory).map_err(Failure::io("make a directory for Redis"))?;
    let mut arguments: Vec<OsString> = vec!["--bind".into(), address.ip().to_string().into()];
    arguments.extend(["--port".into(), address.port().to_string().into()]);
    arguments.extend(["--dir".into(), directory.into()]);
    arguments.extend(["--appendonly", "yes", "--appendfsync", "always", "--save", ""].map(OsString::from));
    let program = Program {
        name: "redis".to_owned(),
        program: "redis-server".into(),
        arguments,
        environment: Vec::new(),
        log_directory: work.join("logs"),
        ready: Ready::Listens(address),
        patience: PATIENCE,
    };
    let redis = Supervised::start(&program).await?;
    Ok((format!("redis://{address}/1"), redis))
}

impl Subject for Juicefs {
    fn root(&self) -> PathBuf {
        self.work.join("juicefs")
    }

    async fn cold(&mut self) -> Result<(), Failure> {
        self.unmount().await?;
        let cache = self.work.join("juicefs-cache");
        if cache.exists() {
            std::fs::remove_dir_all(&cache).map_err(Failure::io("remove the cache of JuiceFS"))?;
        }
        self.start().await
    }

    fn meter(&self) -> Result<Meter, Failure> {
        let redis = self
            .redis
            .as_ref()
            .map(|redis| (Part::Service, redis.process_id()));
        let mount = self.mount.as_ref().map(|mount| (Part::Mount, mount.process_id()));
        let store = self.store.map(|process| (Part::Store, process));
        Ok(Meter {
            processes: redis.into_iter().chain(mount).chain(store).collect(),
            metrics: None,
        })
    }
}
