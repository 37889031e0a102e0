//! Advisory locks: the service grants them; here what was written under one is stored before it is given back.

use std::sync::Arc;

use twinshore_protocol::lock::{Lock, LockKind};
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, unexpected};
use super::inode::lock;

/// Cancels a waiting request when its future is dropped, and remembers that it may have been granted before.
struct Waiting {
    core: Arc<Core>,
    inode: InodeNumber,
    lock: Lock,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            lock(&self.core.caches.locks).unanswered(self.inode, self.lock);
            let operation = Operation::CancelLock {
                inode: self.inode,
                owner: self.lock.owner,
            };
            drop(self.core.session.request(Caller::ROOT, operation));
        }
    }
}

impl Vfs {
    /// `F_GETLK`: the lock in the way, if any.
    pub async fn get_lock(
        &self,
        caller: Caller,
        inode: InodeNumber,
        lock: Lock,
    ) -> Result<Option<Lock>, Errno> {
        let inode = self.core.caches.real(inode);
        match self.core.ask(caller, Operation::GetLock { inode, lock }).await? {
            Reply::Lock(lock) => Ok(lock),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes, changes or gives back a lock. Without `wait`, `EAGAIN` if it is held. Dropping the future of a waiting request
    /// cancels it.
    pub async fn set_lock(
        &self,
        caller: Caller,
        inode: InodeNumber,
        asked: Lock,
        wait: bool,
    ) -> Result<(), Errno> {
        let core = &self.core;
        let inode = core.inode(inode);
        // Whoever gets the lock next must see what was written under it. A failure stays with the file and does not
        // keep the lock: its owner may be about to end.
        if asked.kind != LockKind::Write {
            core.write_out(&inode, super::write_out::Urgency::Flush).await;
        }
        let mut waiting = Waiting {
            core: Arc::clone(core),
            inode: inode.number,
            lock: asked,
            answered: false,
        };
        let answer = core
            .ask(
                caller,
                Operation::SetLock {
                    inode: inode.number,
                    lock: asked,
                    wait,
                },
            )
            .await;
        waiting.answered = true;
        if answer == Err(Errno::InputOutput) {
            // Nobody knows: what is given back at `close` includes it.
            lock(&core.caches.locks).unanswered(inode.number, asked);
        }
        match answer? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives up waiting: the waiting request answers `EINTR`.
    pub async fn cancel_lock(&self, caller: Caller, inode: InodeNumber, owner: u64) -> Result<(), Errno> {
        let inode = self.core.caches.real(inode);
        match self
            .core
            .ask(caller, Operation::CancelLock { inode, owner })
            .await?
        {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
