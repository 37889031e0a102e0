//! Going on where the process before this one ended.
//!
//! # Flow
//!
//! 1. What the logbook tells is put where it was: handles under their numbers, bytes that are in no commit, locks, what was answered early.
//! 2. Nothing is leased, so nothing is cached. The kernel drops what it has (whoever calls sees to that, before the session is resumed).
//! 3. The session is resumed, as after a break of its stream: it claims what is held and sends again what was not answered.
//! 4. The kernel sends its requests again. What was done for one already is found here, by its number, and not done again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use twinshore_protocol::session::{Awaited, Recorder, Session, SessionHandler, SessionOptions, Transport};
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply, RequestNumber};

use super::budget::Budget;
use super::caches::Caches;
use super::core::{Core, HandleState};
use super::deferred::Deferred;
use super::entries::EntryCache;
use super::inode::{Inode, Privacy, lock};
use super::inodes::Inodes;
use super::interface::{Handle, OpenFlags};
use super::listing::ListingBuffer;
use super::options::VfsOptions;
use super::{Surroundings, Vfs};
use crate::logbook::{Legacy, Logbook, OpenHandle, Pending, Restored, calls};

/// What the predecessor did for requests of the kernel.
#[derive(Debug, Default)]
pub struct Inheritance {
    pending: HashMap<u64, Pending>,
    handles: HashMap<u64, Handle>,
    awaited: HashMap<RequestNumber, Awaited>,
}

/// A file system that goes on.
pub struct Resumed<F> {
    /// The file system.
    pub vfs: Vfs,
    /// Resumes the session, and serves it as long as it lasts. To be spawned when the kernel has been told to drop what it has.
    pub session: F,
    /// What the kernel has open, by its own numbers of inodes.
    pub open: Vec<InodeNumber>,
    /// Who took record locks through which handle.
    pub owners: Vec<(u64, u64)>,
}

impl Vfs {
    /// Goes on with what a predecessor has left in the logbook of the options. Called inside the runtime.
    pub fn resume(
        transport: Arc<dyn Transport>,
        session: SessionOptions,
        surroundings: Surroundings,
        options: VfsOptions,
        logbook: &Arc<Logbook>,
        legacy: Legacy,
    ) -> Resumed<impl Future<Output = ()> + Send + use<>> {
        let Surroundings {
            buckets,
            blocks,
            kernel,
            tasks,
        } = surroundings;
        let Legacy {
            offer: _,
            root,
            resumption,
            pending,
            handles,
            inodes,
            early,
            locks,
            owners,
        } = legacy;
        let caches = Arc::new(Caches::new(
            Inodes::new(options.inode_cache_units),
            EntryCache::new(options.entry_cache_names),
            Budget::new(options.buffer_size_bytes),
            kernel,
            tasks,
            Some(Arc::clone(logbook)),
        ));
        let handler = Arc::clone(&caches) as Arc<dyn SessionHandler>;
        let recorder = Arc::clone(logbook) as Arc<dyn Recorder>;
        let (session, start, awaited) = Session::resume(transport, session, handler, recorder, resumption);
        let inheritance = Inheritance {
            pending,
            handles: handles
                .iter()
                .filter(|open| open.call != 0)
                .map(|open| (open.call, Handle(open.handle)))
                .collect(),
            awaited: awaited
                .into_iter()
                .map(|awaited| (awaited.number, awaited))
                .collect(),
        };
        let core = Core::start(session, caches, options, buckets, blocks);
        *lock(&core.inheritance) = inheritance;
        core.caches.set_root(root);
        for (number, restored) in inodes {
            core.restore(number, restored);
        }
        let mut open = Vec::with_capacity(handles.len());
        for handle in handles {
            open.extend(core.caches.kernel_number(handle.inode));
            core.restore_handle(handle);
        }
        for (inode, held) in locks {
            for held in held {
                lock(&core.caches.locks).granted(inode, held);
            }
        }
        for (number, concerned) in early {
            lock(&core.caches.delegations).answered(number, concerned);
        }
        core.give_back_what_nobody_has();
        Resumed {
            vfs: Self { core },
            session: start,
            open,
            owners,
        }
    }
}

impl Core {
    fn restore(&self, number: InodeNumber, restored: Restored) {
        let Restored {
            opens_replied,
            opens_sent,
            data,
            deferred,
            failure,
            early,
        } = restored;
        let inode = self.caches.inodes.get(number);
        let mut state = inode.state();
        (state.opens_replied, state.opens_sent, state.early) = (opens_replied, opens_sent, early);
        state.error = failure;
        // Whether others can know of it is not recorded. So closing it waits, and so does the acknowledgement of an invalidation.
        state.privacy = Privacy::Recalled;
        for data in data {
            state.dirty.clear_privileges |= data.clear_privileges;
            state.dirty.last_write = data.number;
            state.dirty.write(
                data.offset,
                &data.content,
                self.options.object_size_bytes,
                Instant::now(),
                data.time,
            );
        }
        state.deferred = deferred.map(Deferred::restored);
        let (bytes, is_written) = (state.dirty.bytes(), state.is_written());
        drop(state);
        self.caches.budget.adjust(0, bytes);
        if !is_written {
            self.mark_dirty(&inode);
        }
    }

    fn restore_handle(&self, open: OpenHandle) {
        let state = match open.flags {
            Some(bits) => {
                let inode = self.caches.inodes.get(open.inode);
                inode.state().handles += 1;
                HandleState::File(inode, OpenFlags::from_bits(bits))
            }
            None => HandleState::Directory(Arc::new(Mutex::new(ListingBuffer::default()))),
        };
        self.insert_handle(Handle(open.handle), state);
    }

    /// What the service counts as open and no program has.
    fn give_back_what_nobody_has(self: &Arc<Self>) {
        for inode in self.caches.inodes.all() {
            let unused = {
                let state = inode.state();
                state.handles == 0 && state.opens_sent > 0
            };
            if unused {
                self.release_when_written(inode);
            }
        }
    }

    /// The bytes of the kernel's request that is worked for have been taken before.
    pub fn was_taken(&self) -> bool {
        self.logbook().is_some()
            && matches!(
                lock(&self.inheritance).pending.get(&calls::current()),
                Some(Pending::Taken)
            )
    }

    /// The kernel's request that is worked for was carried out before, or is being carried out.
    pub fn is_inherited(&self) -> bool {
        self.logbook().is_some() && lock(&self.inheritance).pending.contains_key(&calls::current())
    }

    /// The handle that was made for the kernel's request that is worked for. The first call gets it.
    pub fn adopted(&self) -> Option<Handle> {
        self.logbook()?;
        lock(&self.inheritance).handles.remove(&calls::current())
    }

    /// Is there such a handle?
    pub fn is_adopted(&self) -> bool {
        self.logbook().is_some() && lock(&self.inheritance).handles.contains_key(&calls::current())
    }

    /// The reply to what was asked for the kernel's request that is worked for.
    pub async fn inherited(&self, operation: &Operation) -> Option<Result<Reply, Errno>> {
        self.logbook()?;
        let call = calls::current();
        if call == 0 || !crate::logbook::is_recorded(operation) {
            return None;
        }
        let awaited = {
            let mut inheritance = lock(&self.inheritance);
            match inheritance.pending.get(&call)? {
                Pending::Taken => return None,
                Pending::Answered(_) => match inheritance.pending.remove(&call) {
                    Some(Pending::Answered(result)) => return Some(result),
                    _ => return None,
                },
                Pending::Asked(number) => {
                    let number = *number;
                    inheritance.pending.remove(&call);
                    inheritance.awaited.remove(&number)?
                }
            }
        };
        let for_ever = matches!(operation, Operation::SetLock { wait: true, .. });
        Some(awaited.wait(for_ever).await.map_err(|error| error.errno()))
    }

    /// The attributes that wait for written bytes have changed. Called under the lock of the inode.
    pub fn record_deferred(&self, inode: &Inode, deferred: Option<&Deferred>) {
        if let Some(logbook) = self.logbook() {
            let change = deferred.map(|deferred| deferred.recorded(inode.number));
            logbook.deferred(inode.number, change.as_ref());
        }
    }
}
