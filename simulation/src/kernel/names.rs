//! System calls about names.

use std::time::Duration;

use tokio::time::Instant;
use twinshore_filesystem::vfs::{Attributed, Found, OpenFlags};
use twinshore_protocol::operation::RenameMode;
use twinshore_protocol::{Caller, Errno, FileName, FileType, InodeNumber};

use super::{Asked, CachedName, Kernel, OpenFile};

/// The mode of everything that is made.
const MODE: u16 = 0o777;

impl Kernel {
    /// What a name names: cached, or asked for.
    pub async fn lookup(&self, parent: InodeNumber, name: &FileName) -> Result<Option<InodeNumber>, Errno> {
        if let Some(known) = self.cached_name(parent, name) {
            return Ok(known.inode);
        }
        let directory = self.caches.directory(parent);
        let _shared = directory.read().await;
        let asked = self.caches.asked();
        let found = match self.vfs.cached_lookup(parent, name) {
            Some(found) => found,
            None => self.vfs.lookup(Caller::ROOT, parent, name.clone()).await?,
        };
        self.caches.answer_delay().await;
        Ok(match found {
            Found::Entry(attributed) => {
                self.learn_entry(parent, name, &attributed, asked);
                Some(attributed.attributes.inode)
            }
            Found::Absent(time_to_live) => {
                self.caches.freshness.answer(asked.since, |verdict| {
                    let lives = verdict.time_to_live(time_to_live, &[parent]);
                    self.remember(parent, name, None, lives, asked);
                });
                None
            }
        })
    }

    fn cached_name(&self, parent: InodeNumber, name: &FileName) -> Option<CachedName> {
        let state = self.caches.state();
        let known = *state.names.get(&(parent, name.clone()))?;
        (known.valid_until > Instant::now() && known.epoch == state.epoch).then_some(known)
    }

    fn remember(
        &self,
        parent: InodeNumber,
        name: &FileName,
        inode: Option<InodeNumber>,
        lives: Duration,
        asked: Asked,
    ) {
        let mut state = self.caches.state();
        let known = CachedName {
            inode,
            valid_until: Instant::now() + lives,
            epoch: asked.epoch,
        };
        state.names.insert((parent, name.clone()), known);
    }

    fn learn_entry(&self, parent: InodeNumber, name: &FileName, attributed: &Attributed, asked: Asked) {
        let inode = attributed.attributes.inode;
        self.caches.freshness.answer(asked.since, |verdict| {
            let lives = verdict.time_to_live(attributed.time_to_live, &[inode]);
            let entry_lives = verdict.time_to_live(attributed.time_to_live, &[parent, inode]);
            self.caches.learn(&attributed.attributes, lives, asked);
            self.remember(parent, name, Some(inode), entry_lives, asked);
        });
    }

    /// `open(O_CREAT | O_EXCL)`.
    pub async fn create(
        &self,
        parent: InodeNumber,
        name: &FileName,
        flags: OpenFlags,
    ) -> Result<OpenFile, Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        let asked = self.caches.asked();
        let (attributed, opened) = self
            .vfs
            .create(Caller::ROOT, parent, name.clone(), MODE, 0, true, flags)
            .await?;
        let inode = attributed.attributes.inode;
        self.opened(inode);
        self.caches.answer_delay().await;
        self.learn_entry(parent, name, &attributed, asked);
        self.caches.state().outdate(parent);
        self.finish_open(inode, opened).await;
        Ok(OpenFile {
            inode,
            handle: opened.handle,
        })
    }

    /// `mkdir`.
    pub async fn make_directory(&self, parent: InodeNumber, name: &FileName) -> Result<InodeNumber, Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        let asked = self.caches.asked();
        let made = self
            .vfs
            .make_directory(Caller::ROOT, parent, name.clone(), MODE, 0)
            .await?;
        self.caches.answer_delay().await;
        self.learn_entry(parent, name, &made, asked);
        self.caches.state().outdate(parent);
        Ok(made.attributes.inode)
    }

    /// `mknod` of a pipe.
    pub async fn make_pipe(&self, parent: InodeNumber, name: &FileName) -> Result<(), Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        let asked = self.caches.asked();
        let made = self
            .vfs
            .make_node(Caller::ROOT, parent, name.clone(), MODE, 0, FileType::Fifo, 0)
            .await?;
        self.caches.answer_delay().await;
        self.learn_entry(parent, name, &made, asked);
        self.caches.state().outdate(parent);
        Ok(())
    }

    /// `link`. Answers the number of links.
    pub async fn link(&self, inode: InodeNumber, parent: InodeNumber, name: &FileName) -> Result<u32, Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        let asked = self.caches.asked();
        let linked = self.vfs.link(Caller::ROOT, inode, parent, name.clone()).await?;
        self.caches.answer_delay().await;
        self.learn_entry(parent, name, &linked, asked);
        self.caches.state().outdate(parent);
        Ok(linked.attributes.links)
    }

    /// `unlink`.
    pub async fn unlink(&self, parent: InodeNumber, name: &FileName) -> Result<(), Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        self.vfs.unlink(Caller::ROOT, parent, name.clone()).await?;
        self.caches.answer_delay().await;
        self.gone(parent, name);
        Ok(())
    }

    /// `rmdir`.
    pub async fn remove_directory(&self, parent: InodeNumber, name: &FileName) -> Result<(), Errno> {
        let directory = self.caches.directory(parent);
        let _held = directory.write().await;
        self.vfs
            .remove_directory(Caller::ROOT, parent, name.clone())
            .await?;
        self.caches.answer_delay().await;
        self.gone(parent, name);
        Ok(())
    }

    fn gone(&self, parent: InodeNumber, name: &FileName) {
        let mut state = self.caches.state();
        if let Some(known) = state.names.remove(&(parent, name.clone()))
            && let Some(inode) = known.inode
        {
            state.outdate(inode);
        }
        state.outdate(parent);
    }

    /// `rename` between two directories; the dentry moves with its time to live (`d_move`).
    pub async fn rename(
        &self,
        parent: InodeNumber,
        name: &FileName,
        new_parent: InodeNumber,
        new_name: &FileName,
    ) -> Result<(), Errno> {
        // In the order of their numbers, so that two renames cannot wait for each other.
        let (first, second) = (parent.min(new_parent), parent.max(new_parent));
        let (one, two) = (self.caches.directory(first), self.caches.directory(second));
        let _first = one.write().await;
        let _second = if first == second {
            None
        } else {
            Some(two.write().await)
        };
        self.vfs
            .rename(
                Caller::ROOT,
                parent,
                name.clone(),
                new_parent,
                new_name.clone(),
                RenameMode::Replace,
            )
            .await?;
        self.caches.answer_delay().await;
        self.gone(new_parent, new_name);
        let mut state = self.caches.state();
        if let Some(known) = state.names.remove(&(parent, name.clone())) {
            if let Some(inode) = known.inode {
                state.outdate(inode);
            }
            state.names.insert((new_parent, new_name.clone()), known);
        }
        state.outdate(parent);
        Ok(())
    }
}
