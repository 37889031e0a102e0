//! From unwritten bytes to stored objects and commits: always data before metadata, and an inode's commits in the order of
//! its writes.
//!
//! # Flow
//!
//! 1. Sequential data is sealed as it reaches the size of an object, and uploaded at once in the background.
//! 2. A flush takes the inode's turn and seals the rest. Little data is committed inline; little more is packed with other
//!    files'; the rest is uploaded.
//! 3. What is stored is committed from the front. The reply settles the bytes (in the caches, see [`super::caches`]).
//!
//! # Failure
//!
//! An upload is tried again until the write limit, then its bytes are given up and the file answers `EIO`; a refused commit
//! gives up its bytes with the service's error. Either is told once, by whichever of `write`, `fsync` and `close` comes next,
//! and the kernel drops the pages, which hold what was never stored. No flush succeeds that did not store everything that
//! was written before it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use twinshore_protocol::operation::{FileCommit, NewObject};
use twinshore_protocol::{Caller, Errno, Operation, Reply, Sides};
use twinshore_storage::object::encode;

use super::core::{Core, unexpected};
use super::dirty::{CommitPlan, Piece, Step};
use super::inode::{Inode, lock};
use super::interface::{BlockRun, Origin};
use crate::logbook::Note;

/// Pause after the first failed upload; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Whether somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A program does.
    Flush,
    /// Nobody does.
    Background,
}

impl Core {
    /// Writes out everything that was written to the inode before the call. Errors stay with the inode.
    pub async fn write_out(self: &Arc<Self>, inode: &Arc<Inode>, urgency: Urgency) {
        if inode.state().is_written() {
            return;
        }
        let turn = inode.turn.lock().await;
        self.write_out_in_turn(inode, &turn, urgency).await;
    }

    /// The same, for whoever has the turn already.
    pub async fn write_out_in_turn(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        turn: &MutexGuard<'_, ()>,
        urgency: Urgency,
    ) {
        let _ = turn;
        let sizes = self
            .options
            .sizes(self.session.format().settings.inline_limit_bytes);
        let target = {
            let mut state = inode.state();
            state.dirty.seal_all();
            state.dirty.next_sequence()
        };
        loop {
            let progress = inode.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let step = inode.state().dirty.next_step(target, sizes);
            match step {
                Step::Done => return self.send_deferred(inode).await,
                Step::Inline(plan) | Step::Commit(plan) if plan.until >= target => {
                    // Both go out at once, and the service takes them in this order.
                    tokio::join!(biased; self.commit_plan(inode, plan), self.send_deferred(inode));
                }
                Step::Inline(plan) | Step::Commit(plan) => self.commit_plan(inode, plan).await,
                Step::Pack(pieces, until) => self.pack(inode, pieces, until).await,
                Step::Upload(groups) => {
                    for group in groups {
                        self.start_upload(inode, group, urgency);
                    }
                }
                Step::Wait => progress.await,
            }
        }
    }

    /// Uploads what has been sealed, without waiting.
    pub fn upload_sealed(self: &Arc<Self>, inode: &Arc<Inode>) {
        let groups = inode
            .state()
            .dirty
            .start_uploads(u64::MAX, self.options.object_size_bytes);
        for group in groups {
            self.start_upload(inode, group, Urgency::Background);
        }
    }

    /// Remembers that an inode has unwritten data.
    pub fn mark_dirty(&self, inode: &Inode) {
        let mut dirty = lock(&self.dirty);
        let was_empty = dirty.is_empty();
        dirty.insert(inode.number);
        drop(dirty);
        if was_empty {
            self.writer.notify_one();
        }
    }

    fn start_upload(self: &Arc<Self>, inode: &Arc<Inode>, group: Vec<Piece>, urgency: Urgency) {
        let core = Arc::clone(self);
        let inode = Arc::clone(inode);
        self.runtime.spawn(async move {
            let content = group.iter().map(|piece| piece.content.clone()).collect();
            match core.store_object(content, urgency).await {
                Ok(object) => inode.state().dirty.stored_from(&group, object, 0),
                Err(errno) => {
                    core.give_up_with(&inode, errno, |dirty| dirty.give_up(&group));
                }
            }
            inode.progress.notify_waiters();
            // Without a flush that waits, what is stored is committed here, and its memory freed.
            if let Ok(_turn) = inode.turn.try_lock() {
                loop {
                    let plan = inode.state().dirty.stored_plan(u64::MAX);
                    let Some(plan) = plan else { break };
                    core.commit_plan(&inode, plan).await;
                }
            }
        });
    }

    async fn commit_plan(&self, inode: &Inode, plan: CommitPlan) {
        let bounds = vec![plan.bounds];
        let file = {
            let mut state = inode.state();
            FileCommit {
                inode: inode.number,
                writes: plan.writes,
                modified: Some(state.dirty.modified),
                clear_privileges: std::mem::take(&mut state.dirty.clear_privileges),
            }
        };
        if let Err(errno) = self.commit(plan.objects, vec![file], bounds).await {
            self.give_up(inode, plan.until, errno);
        }
    }

    /// Commits. When it succeeds, the caches have already settled the pieces. For each write of each file `bounds` tells the last one
    /// that a program had made before.
    pub async fn commit(
        &self,
        objects: Vec<NewObject>,
        files: Vec<FileCommit>,
        bounds: Vec<Vec<u64>>,
    ) -> Result<(), Errno> {
        if self.is_abandoned() {
            return Err(Errno::InputOutput);
        }
        let note = Note {
            commits: files.iter().map(|file| file.inode).zip(bounds).collect(),
            ..Note::default()
        };
        match self
            .ask_noted(Caller::ROOT, Operation::Commit { objects, files }, note)
            .await?
        {
            Reply::Committed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The pieces before a sequence cannot be committed.
    pub fn give_up(&self, inode: &Inode, until: u64, errno: Errno) {
        self.give_up_with(inode, errno, |dirty| dirty.settle(until));
    }

    fn give_up_with(
        &self,
        inode: &Inode,
        errno: Errno,
        take: impl FnOnce(&mut super::dirty::Dirty) -> usize,
    ) {
        let mut state = inode.state();
        let before = state.dirty.bytes();
        // Nothing is left if the session ended meanwhile: then the error has been noted already.
        let lost = take(&mut state.dirty);
        if lost > 0 {
            state.error = Some(errno);
            self.caches.record_failure(inode.number, Some(errno));
        }
        if let Some(logbook) = self.logbook()
            && state.dirty.is_empty()
        {
            logbook.nothing_written(inode.number);
        }
        let after = state.dirty.bytes();
        drop(state);
        self.caches.budget.adjust(before, after);
        if lost > 0 {
            tracing::warn!(inode = %inode.number, lost_bytes = before - after, %errno, "written data could not be stored");
            self.caches.drop_kernel_pages(inode.number);
        }
    }

    /// Stores content as a new object.
    pub async fn store_object(&self, content: Vec<Bytes>, urgency: Urgency) -> Result<NewObject, Errno> {
        let started = Instant::now();
        // The order is fixed and the second semaphore is never held while waiting for the first: no deadlock.
        let _background = match urgency {
            Urgency::Background => self.background_uploads.acquire().await.ok(),
            Urgency::Flush => None,
        };
        let _permit = self.uploads.acquire().await.ok();
        let id = self.session.take_object().await.map_err(|error| error.errno())?;
        let encoded = encode(&content, self.session.format().settings.compression);
        let mut pause = RETRY_FIRST;
        let side = loop {
            if self.is_abandoned() {
                return Err(Errno::InputOutput);
            }
            match self.buckets.store(id, &encoded).await {
                Ok(side) => break side,
                Err(error) if started.elapsed() + pause >= self.options.write_limit => {
                    tracing::error!(object = %id, %error, "an object could not be stored within the write limit");
                    return Err(Errno::InputOutput);
                }
                Err(error) => {
                    tracing::warn!(object = %id, %error, "an object could not be stored; trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        };
        // What was just written is likely to be read.
        let run = BlockRun {
            first_block: 0,
            // As it is in what was stored, if it is: one copy of it is enough.
            content: encoded.raw_content().unwrap_or_else(|| content.concat().into()),
        };
        self.blocks.insert(id, run, Origin::Written);
        Ok(NewObject {
            object: id,
            stored_bytes: encoded.stored_bytes(),
            content_bytes: encoded.content_bytes,
            checksum: encoded.checksum,
            present: Sides::only(side),
        })
    }
}
