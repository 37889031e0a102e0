//! A program that only looks, again and again, with files that it keeps open: what its kernel caches must follow what others
//! do.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use twinshore_filesystem::vfs::OpenFlags;
use twinshore_protocol::Errno;

use crate::kernel::OpenFile;
use crate::names::{self, Names};
use crate::shared::{LOCKED_FILES, Shared, Step};

/// Looks at the shared files.
pub struct Watcher {
    shared: Shared,
    open: BTreeMap<u64, OpenFile>,
    names: Names,
}

/// Mounts whose names are looked at.
const MOUNTS: u64 = 4;

impl Watcher {
    /// A watcher without open files.
    pub fn new(shared: Shared, names: Names) -> Self {
        Self {
            shared,
            names,
            open: BTreeMap::new(),
        }
    }

    /// Looks until the time is up.
    pub async fn work(mut self, until: Instant) {
        while Instant::now() < until && !self.shared.verdict.is_guilty() {
            let result = match self.shared.random.between(0, 100) {
                0..40 => self.read_in_place().await,
                40..56 => names::look(&mut self.shared, &self.names, MOUNTS).await,
                56..60 => names::look_at_removed(&mut self.shared, &self.names, MOUNTS).await,
                60..92 => self.shared.read_register().await,
                _ => {
                    let file = self.shared.random.between(0, LOCKED_FILES);
                    self.shared.use_locked(file, false).await
                }
            };
            if let Err(errno) = result {
                self.shared.trace.event(&self.shared.name, &errno.to_string());
            }
            let pause = self.shared.random.between(1, 60);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        for file in self.open.into_values() {
            let closed = self.shared.kernel.close(file).await;
            self.shared
                .trace
                .event(&self.shared.name, &format!("closed: {closed:?}"));
        }
    }

    async fn read_in_place(&mut self) -> Step {
        let number = self.shared.pick_in_place();
        if self.shared.random.one_in(12)
            && let Some(file) = self.open.remove(&number)
        {
            self.shared.kernel.close(file).await?;
        }
        let file = if let Some(file) = self.open.get(&number) {
            *file
        } else {
            let name = format!("inplace-{number}");
            let opened = self.shared.open(&name, OpenFlags::default()).await?;
            let file = opened.ok_or(Errno::NotFound)?;
            self.open.insert(number, file);
            file
        };
        self.shared.read_in_place(number, file).await
    }
}
