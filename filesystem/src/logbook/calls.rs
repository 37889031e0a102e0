//! Which request of the kernel the present code works for, and what a request to the service settles.
//!
//! Both are told by the thread, not by arguments: between the adapter, which knows the first, and the session, which records, lie all
//! operations of the file system, and only what is recorded is concerned.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use twinshore_protocol::InodeNumber;

use super::Logbook;

/// Set by the kernel in the number of a request that it sends again.
const RESENT: u64 = 1 << 63;

thread_local! {
    /// The number of the kernel's request, 0 for none.
    static CALL: Cell<u64> = const { Cell::new(0) };
    static NOTE: RefCell<Note> = const { RefCell::new(Note::NONE) };
}

/// What else there is to know of a request to the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// It commits what was written: for each write of each file, the last that was made to the file before it was sealed.
    pub commits: Vec<(InodeNumber, Vec<u64>)>,
    /// It stores attributes that were deferred: of this inode, and how many changes were joined.
    pub deferred: Option<(InodeNumber, u32)>,
    /// The inodes that something answered early concerns.
    pub concerned: Vec<InodeNumber>,
}

impl Note {
    const NONE: Self = Self {
        commits: Vec::new(),
        deferred: None,
        concerned: Vec::new(),
    };

    /// It is made for a request of the kernel, which waits for just this reply.
    pub fn is_for_call(&self) -> bool {
        self.commits.is_empty() && self.deferred.is_none()
    }
}

/// The kernel's request that is worked for; 0 for none.
pub fn current() -> u64 {
    CALL.get()
}

/// Makes a request with a note. It is recorded before this returns.
pub fn noted<T>(note: Note, request: impl FnOnce() -> T) -> T {
    NOTE.set(note);
    let result = request();
    NOTE.set(Note::NONE);
    result
}

/// The note of the request that is being made.
pub(super) fn take_note() -> Note {
    NOTE.take()
}

/// Works for a request of the kernel.
pub async fn within<T>(call: Option<&Call>, work: impl Future<Output = T>) -> T {
    let number = call.map_or(0, |call| call.number);
    let mut work = pin!(work);
    poll_fn(move |context| {
        let before = CALL.replace(number);
        let polled = work.as_mut().poll(context);
        CALL.set(before);
        polled
    })
    .await
}

/// A request of the kernel that is not answered yet. Dropped when it is.
#[derive(Debug)]
pub struct Call {
    logbook: Arc<Logbook>,
    number: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.logbook.call_answered(self.number);
    }
}

/// While this lives, the thread works for a request of the kernel.
#[derive(Debug)]
pub struct Working {
    logbook: Option<Arc<Logbook>>,
    number: u64,
}

impl Working {
    /// Begins. Without a logbook nothing is noted.
    pub fn begin(logbook: Option<&Arc<Logbook>>, unique: u64) -> Self {
        let number = unique & !RESENT;
        if let Some(logbook) = logbook {
            logbook.call_begins(number);
            CALL.set(number);
        }
        Self {
            logbook: logbook.cloned(),
            number,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // Another number: the work was handed over, and goes on elsewhere.
        if let Some(logbook) = &self.logbook
            && CALL.replace(0) == self.number
        {
            logbook.call_answered(self.number);
        }
    }
}

/// Hands the request that the thread works for over to a task.
pub fn hand_over(logbook: Option<&Arc<Logbook>>) -> Option<Call> {
    let logbook = Arc::clone(logbook?);
    let number = CALL.replace(0);
    (number != 0).then_some(Call { logbook, number })
}
