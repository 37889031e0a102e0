//! Small files that are flushed at the same time share an object: one PUT and one commit for all of them.
//!
//! The first file goes at once. While packs are on their way, what comes next gathers for a short while, as the next commit
//! of a database gathers while the log is written.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use twinshore_protocol::operation::{FileCommit, FileWrite, NewObject};
use twinshore_protocol::{Errno, ExtentSource};

use super::core::Core;
use super::dirty::Piece;
use super::inode::{Inode, lock};
use super::write_out::Urgency;

/// How long a pack gathers while others are on their way: short against a PUT.
const LINGER: Duration = Duration::from_millis(5);

/// Content of a pack at most, give or take one file.
const PACK_BYTES: usize = 4 << 20;

/// Packs on their way at most; files that come meanwhile gather.
const PACKS_MAX: usize = 8;

/// Files in one pack at most: their commit is one message.
const FILES_MAX: usize = 1024;

struct Item {
    inode: Arc<Inode>,
    pieces: Vec<Piece>,
    until: u64,
    done: oneshot::Sender<()>,
}

#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    bytes: usize,
    on_their_way: usize,
    gathering: bool,
}

/// What gathers.
#[derive(Default)]
pub struct Packer {
    gathered: Mutex<Gathered>,
    full: Notify,
    sent: Notify,
}

impl Core {
    /// Stores and commits the pieces together with those of other files. When it returns they are settled, one way or
    /// the other.
    pub async fn pack(self: &Arc<Self>, inode: &Arc<Inode>, pieces: Vec<Piece>, until: u64) {
        let (done, finished) = oneshot::channel();
        let starts = {
            let mut gathered = lock(&self.packer.gathered);
            gathered.bytes += pieces.iter().map(|piece| piece.content.len()).sum::<usize>();
            gathered.items.push(Item {
                inode: Arc::clone(inode),
                pieces,
                until,
                done,
            });
            if gathered.bytes >= PACK_BYTES {
                self.packer.full.notify_one();
            }
            !std::mem::replace(&mut gathered.gathering, true)
        };
        if starts {
            let core = Arc::clone(self);
            self.runtime.spawn(async move { core.gather().await });
        }
        // An error means that the task was cut off with the runtime: then nobody waits any more either.
        let _ = finished.await;
    }

    async fn gather(self: Arc<Self>) {
        loop {
            let (on_their_way, full) = {
                let gathered = lock(&self.packer.gathered);
                (gathered.on_their_way, gathered.bytes >= PACK_BYTES)
            };
            if on_their_way >= PACKS_MAX {
                self.packer.sent.notified().await;
                continue;
            }
            if on_their_way > 0 && !full {
                let _ = tokio::time::timeout(LINGER, self.packer.full.notified()).await;
            }
            let items = {
                let mut gathered = lock(&self.packer.gathered);
                let mut bytes = 0;
                let mut count = 0;
                for item in &gathered.items {
                    if bytes >= PACK_BYTES || count == FILES_MAX {
                        break;
                    }
                    bytes += item.pieces.iter().map(|piece| piece.content.len()).sum::<usize>();
                    count += 1;
                }
                let items: Vec<Item> = gathered.items.drain(..count).collect();
                gathered.bytes -= bytes;
                if items.is_empty() {
                    gathered.gathering = false;
                    return;
                }
                gathered.on_their_way += 1;
                items
            };
            let core = Arc::clone(&self);
            self.runtime.spawn(async move {
                core.send_pack(items).await;
                lock(&core.packer.gathered).on_their_way -= 1;
                core.packer.sent.notify_one();
            });
        }
    }

    async fn send_pack(self: &Arc<Self>, items: Vec<Item>) {
        let content: Vec<Bytes> = items
            .iter()
            .flat_map(|item| item.pieces.iter().map(|piece| piece.content.clone()))
            .collect();
        match self.store_object(content, Urgency::Flush).await {
            Ok(object) => self.commit_pack(&items, object).await,
            Err(errno) => {
                for item in &items {
                    self.give_up(&item.inode, item.until, errno);
                }
            }
        }
        for item in items {
            item.inode.progress.notify_waiters();
            // Nobody listens if the flush ran into its deadline.
            let _ = item.done.send(());
        }
    }

    async fn commit_pack(&self, items: &[Item], object: NewObject) {
        let mut object_offset = 0;
        let files: Vec<FileCommit> = items
            .iter()
            .map(|item| {
                let start = object_offset;
                object_offset += item
                    .pieces
                    .iter()
                    .map(|piece| piece.content.len() as u64)
                    .sum::<u64>();
                pack_commit(item, object, start)
            })
            .collect();
        let all_bounds: Vec<Vec<u64>> = items.iter().map(bounds).collect();
        let Err(errno) = self.commit(vec![object], files.clone(), all_bounds).await else {
            return;
        };
        if items.len() == 1 || errno == Errno::InputOutput {
            for item in items {
                self.give_up(&item.inode, item.until, errno);
            }
            return;
        }
        // All or nothing was nothing: one file without space must not fail the others. The object is named by the first
        // commit that succeeds.
        let mut objects = vec![object];
        for (item, file) in items.iter().zip(files) {
            match self.commit(objects.clone(), vec![file], vec![bounds(item)]).await {
                Ok(()) => objects.clear(),
                Err(errno) => self.give_up(&item.inode, item.until, errno),
            }
        }
    }
}

fn bounds(item: &Item) -> Vec<u64> {
    item.pieces.iter().map(|piece| piece.last_write).collect()
}

fn pack_commit(item: &Item, object: NewObject, mut object_offset: u64) -> FileCommit {
    let mut state = item.inode.state();
    state.dirty.stored_from(&item.pieces, object, object_offset);
    let writes = item
        .pieces
        .iter()
        .map(|piece| {
            let length = piece.content.len() as u64;
            let source = ExtentSource::Object {
                object: object.object,
                object_offset,
                present: object.present,
            };
            object_offset += length;
            FileWrite {
                file_offset: piece.file_offset,
                length,
                source,
            }
        })
        .collect();
    FileCommit {
        inode: item.inode.number,
        writes,
        modified: Some(state.dirty.modified),
        clear_privileges: std::mem::take(&mut state.dirty.clear_privileges),
    }
}
