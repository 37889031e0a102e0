//! Writes out in the background what nobody flushes: data that is idle or old, or everything when memory runs short.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::core::{Core, WeakCore};
use super::inode::{Inode, lock};
use super::write_out::Urgency;

/// Between two looks at the dirty inodes, while there are any: a quarter of the shortest limit that matters.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs until the mount is gone.
pub async fn run(core: WeakCore, wake: Arc<Notify>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        if strong.is_abandoned() {
            return;
        }
        let idle = lock(&strong.dirty).is_empty();
        if idle {
            // Holding on to the core here would keep the mount alive for ever. Its end wakes this too.
            drop(strong);
            wake.notified().await;
            continue;
        }
        strong.write_out_due();
        drop(strong);
        let _ = tokio::time::timeout(INTERVAL, wake.notified()).await;
    }
}

impl Core {
    fn write_out_due(self: &Arc<Self>) {
        let now = Instant::now();
        let short = self.caches.budget.is_half_full();
        let numbers: Vec<_> = lock(&self.dirty).iter().copied().collect();
        for number in numbers {
            let Some(inode) = self.caches.inodes.find(number) else {
                lock(&self.dirty).remove(&number);
                continue;
            };
            let due = {
                let state = inode.state();
                if state.is_written() {
                    lock(&self.dirty).remove(&number);
                    continue;
                }
                short
                    || now >= state.dirty.last_written + self.options.idle_limit
                    || now >= state.dirty.first_written + self.options.age_limit
            };
            if due && inode.turn.try_lock().is_ok() {
                self.write_out_in_background(&inode);
            }
        }
    }

    /// Writes an inode out without waiting.
    pub fn write_out_in_background(self: &Arc<Self>, inode: &Arc<Inode>) {
        let core = Arc::clone(self);
        let inode = Arc::clone(inode);
        self.runtime
            .spawn(async move { core.write_out(&inode, Urgency::Background).await });
    }
}
