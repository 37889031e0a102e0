//! How many bytes may be in memory on their way to a bucket.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::inode::lock;

/// A count of bytes with a limit. What was accepted is never refused afterwards: only who adds asks.
#[derive(Debug)]
pub struct Budget {
    used: Mutex<u64>,
    limit: u64,
    freed: Notify,
}

impl Budget {
    /// An unused one.
    pub fn new(limit: u64) -> Self {
        Self {
            used: Mutex::new(0),
            limit,
            freed: Notify::new(),
        }
    }

    /// How many bytes are in use.
    pub fn used(&self) -> u64 {
        *lock(&self.used)
    }

    /// May so many be added? Something always may when nothing is in use, whatever its size.
    pub fn has_room(&self, bytes: u64) -> bool {
        let used = self.used();
        used == 0 || used + bytes <= self.limit
    }

    /// Is more than half in use? Then it is time to write out.
    pub fn is_half_full(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Takes bytes if there is room for them.
    pub fn try_take(&self, bytes: u64) -> bool {
        let mut used = lock(&self.used);
        if *used != 0 && *used + bytes > self.limit {
            return false;
        }
        *used += bytes;
        true
    }

    /// Something that was counted as `before` is now `after`.
    pub fn adjust(&self, before: u64, after: u64) {
        let mut used = lock(&self.used);
        *used = (*used + after).saturating_sub(before);
        drop(used);
        if after < before {
            self.freed.notify_waiters();
        }
    }

    /// Waits until there is room.
    pub async fn wait_for_room(&self, bytes: u64) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_room(bytes) {
                return;
            }
            freed.await;
        }
    }
}
