//! Requests that wait for an answer: whatever happens, each is answered.
//!
//! # Contract
//!
//! A request that cannot be answered from caches enters the table with its reply and leaves it when its work is done. A sweeper thread
//! looks at those that have waited for a while and answers in place of the work
//!
//! * `EINTR` when the process behind it is being killed (a process in a direct read or any other request that has been read from the device
//!   is not reaped before the reply), or, where the operation may be interrupted, when any signal waits for it;
//! * `EIO` when its deadline has passed.
//!
//! The work goes on all the same: it may have taken effect. What it made is undone by whoever started it if nobody can
//! use it (an open file without a reply would never be released).
//!
//! Invariant: a reply is used exactly once, by the work or by the sweeper, whoever takes it first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::warn;
use twinshore_protocol::Errno;

use super::convert;
use super::process::{Signals, pending_signals};

/// How often the sweeper looks: a killed process is gone, and a Ctrl-C heard, within this time and [`GRACE`].
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Younger requests are not looked at: nearly all are done by then.
const GRACE: Duration = Duration::from_millis(500);

/// Processes looked at in one sweep, oldest requests first: bounds its time to some milliseconds.
const PROCESSES_PER_SWEEP_MAX: usize = 256;

/// How long a request may take, and what may end it early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// One exchange with the service or a read. The layers below have shorter deadlines of their own; this is the backstop.
    Ordinary,
    /// Writes everything out: as long as data flows this may take long on a slow link.
    Flush,
    /// Waits for a lock, for ever, but any signal ends it.
    Lock,
}

impl Patience {
    const fn deadline(self) -> Option<Duration> {
        match self {
            Self::Ordinary => Some(Duration::from_secs(150)),
            Self::Flush => Some(Duration::from_mins(15)),
            Self::Lock => None,
        }
    }
}

/// A reply that can refuse.
pub trait Refuse: Send + 'static {
    /// Answers with an error.
    fn refuse(self, errno: fuser::Errno);
}

macro_rules! refuse {
    ($($reply:ident)*) => {
        $(impl Refuse for fuser::$reply {
            fn refuse(self, errno: fuser::Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyLock ReplyLseek ReplyOpen
    ReplyStatfs ReplyWrite ReplyXattr);

/// The reply of one waiting request.
struct Slot<R> {
    reply: Mutex<Option<R>>,
    refused: Notify,
}

impl<R> Slot<R> {
    fn take(&self) -> Option<R> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

trait Waiting: Send + Sync {
    fn refuse(&self, error: Errno);
}

impl<R: Refuse> Waiting for Slot<R> {
    fn refuse(&self, error: Errno) {
        if let Some(reply) = self.take() {
            reply.refuse(convert::errno(error));
        }
        self.refused.notify_one();
    }
}

struct Entry {
    slot: Arc<dyn Waiting>,
    thread: u32,
    since: Instant,
    patience: Patience,
}

#[derive(Default)]
struct Table {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at the old requests.
    fn sweep(&self, now: Instant, signals: impl Fn(u32) -> Option<Signals>) {
        let mut old: Vec<(u64, u32, Duration, Patience)> = self
            .entries()
            .iter()
            .map(|(number, entry)| {
                (
                    *number,
                    entry.thread,
                    now.saturating_duration_since(entry.since),
                    entry.patience,
                )
            })
            .filter(|(_, _, age, _)| *age >= GRACE)
            .collect();
        old.sort_unstable_by_key(|(number, ..)| *number);
        for (position, (number, thread, age, patience)) in old.into_iter().enumerate() {
            let verdict = if patience.deadline().is_some_and(|deadline| age > deadline) {
                Some(Errno::InputOutput)
            } else if position < PROCESSES_PER_SWEEP_MAX {
                match (signals(thread), patience) {
                    (Some(Signals::Killed), _) | (Some(Signals::Interrupted), Patience::Lock) => {
                        Some(Errno::Interrupted)
                    }
                    _ => None,
                }
            } else {
                None
            };
            let Some(error) = verdict else { continue };
            // Taken out first: the reply is written without the lock.
            let entry = self.entries().remove(&number);
            if let Some(entry) = entry {
                if error == Errno::InputOutput {
                    warn!(
                        thread,
                        seconds = age.as_secs(),
                        "a request of the kernel passed its deadline"
                    );
                }
                entry.slot.refuse(error);
            }
        }
    }
}

/// The table, and the thread that sweeps it.
pub struct Requests {
    table: Arc<Table>,
    sweeper: Option<JoinHandle<()>>,
}

impl Requests {
    /// An empty table with its sweeper.
    pub fn start() -> std::io::Result<Self> {
        let table = Arc::new(Table::default());
        let swept = table.clone();
        let sweeper = std::thread::Builder::new()
            .name("fuse-sweeper".to_owned())
            .spawn(move || {
                let mut stopped = swept.stopped.lock().unwrap_or_else(PoisonError::into_inner);
                while !*stopped {
                    (stopped, _) = swept
                        .stop
                        .wait_timeout(stopped, SWEEP_INTERVAL)
                        .unwrap_or_else(PoisonError::into_inner);
                    if !*stopped {
                        swept.sweep(Instant::now(), pending_signals);
                    }
                }
            })?;
        Ok(Self {
            table,
            sweeper: Some(sweeper),
        })
    }

    /// Takes a reply in charge.
    pub fn enter<R: Refuse>(&self, reply: R, thread: u32, patience: Patience) -> Ticket<R> {
        let slot = Arc::new(Slot {
            reply: Mutex::new(Some(reply)),
            refused: Notify::new(),
        });
        let number = self.table.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            slot: slot.clone(),
            thread,
            since: Instant::now(),
            patience,
        };
        self.table.entries().insert(number, entry);
        Ticket {
            table: self.table.clone(),
            number,
            slot,
        }
    }

    /// How many requests wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.table.entries().len()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        *self.table.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.table.stop.notify_all();
        if let Some(sweeper) = self.sweeper.take()
            && sweeper.join().is_err()
        {
            warn!("the sweeper of requests had panicked");
        }
    }
}

/// A waiting request. Dropping it without taking the reply answers `EIO`.
pub struct Ticket<R: Refuse> {
    table: Arc<Table>,
    number: u64,
    slot: Arc<Slot<R>>,
}

impl<R: Refuse> Ticket<R> {
    /// The reply, unless the sweeper has used it.
    pub fn take(self) -> Option<R> {
        self.slot.take()
    }

    /// Waits until the sweeper has refused.
    pub async fn refused(&self) {
        self.slot.refused.notified().await;
    }
}

impl<R: Refuse> Drop for Ticket<R> {
    fn drop(&mut self) {
        self.table.entries().remove(&self.number);
        if let Some(reply) = self.slot.take() {
            reply.refuse(fuser::Errno::EIO);
        }
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
