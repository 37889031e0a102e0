//! A journal in memory, for tests and the simulation: the same contract, and faults on demand.
//!
//! A [`MemoryDisk`] outlives the journals that are opened on it, as a disk outlives processes. Dropping a journal and opening
//! another one is a crash and a restart.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use twinshore_protocol::{Epoch, Position, VolumeId};

use super::record::{RECORD_MAX_BYTES, RecordHeader};
use super::{Digest, Journal, JournalError, Tail};

/// What goes wrong in an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen, but the caller cannot know: [`JournalError::Unknown`].
    Before,
    /// It happens, but the caller cannot know: [`JournalError::Unknown`].
    After,
    /// It is cut off, and the journal breaks: [`JournalError::Failed`]. Whoever opens the disk next finds nothing of it.
    Torn,
    /// It happens, and the journal breaks before it can say so: [`JournalError::Failed`]. Whoever opens the disk next finds it.
    Unsynced,
    /// There is no space: [`JournalError::Full`].
    Full,
}

#[derive(Debug)]
struct State {
    volume: VolumeId,
    epoch: Epoch,
    /// The tail before the first record that is still there.
    start: Tail,
    records: BTreeMap<Position, (Digest, Bytes)>,
    faults: VecDeque<Fault>,
    exclusive: bool,
    open: bool,
    appends: u64,
}

impl State {
    fn tail(&self) -> Tail {
        match self.records.last_key_value() {
            Some((position, (digest, _))) => Tail {
                epoch: self.epoch,
                position: *position,
                digest: *digest,
            },
            None => Tail {
                epoch: self.epoch,
                ..self.start
            },
        }
    }
}

/// What remains when a process dies. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Arc<Mutex<State>>);

/// A journal on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryJournal {
    disk: MemoryDisk,
    broken: bool,
    exclusive: bool,
}

impl MemoryDisk {
    /// An empty disk, of which one journal can be open at a time, as with the file engine. `start` is as in
    /// [`super::file::FileJournal::create`].
    pub fn new(volume: VolumeId, start: &Tail) -> Self {
        Self::with(volume, start, true)
    }

    /// An empty disk that many journals share, as with an engine in the network: only the epoch decides who may append.
    pub fn shared(volume: VolumeId, start: &Tail) -> Self {
        Self::with(volume, start, false)
    }

    fn with(volume: VolumeId, start: &Tail, exclusive: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            volume,
            epoch: start.epoch,
            start: *start,
            records: BTreeMap::new(),
            faults: VecDeque::new(),
            exclusive,
            open: false,
            appends: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed by single assignments: a panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the journal.
    pub fn open(&self) -> Result<MemoryJournal, JournalError> {
        let mut state = self.state();
        if state.exclusive && state.open {
            return Err(JournalError::InUse("in memory".to_owned()));
        }
        state.open = true;
        Ok(MemoryJournal {
            disk: self.clone(),
            broken: false,
            exclusive: state.exclusive,
        })
    }

    /// The next append that has not got a fault yet goes wrong.
    pub fn fail_next(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// The durable tail, whoever has it open.
    pub fn durable_tail(&self) -> Tail {
        self.state().tail()
    }

    /// How many appends were acknowledged.
    pub fn appends(&self) -> u64 {
        self.state().appends
    }

    /// Durable records from `from`, in order, at most about `max_bytes` but one at least.
    pub fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, JournalError> {
        let state = self.state();
        let first = state.start.position.next();
        let from = from.max(Position(1));
        if from < first {
            return Err(JournalError::Trimmed { first });
        }
        let mut total_bytes = 0;
        let fits = |(_, bytes): &&(Digest, Bytes)| {
            let fits = total_bytes == 0 || total_bytes < max_bytes;
            total_bytes += bytes.len();
            fits
        };
        Ok(state
            .records
            .range(from..)
            .map(|(_, record)| record)
            .take_while(fits)
            .map(|(_, b)| b.clone())
            .collect())
    }
}

impl MemoryJournal {
    fn check_usable(&self) -> Result<(), JournalError> {
        if self.broken { Err(broken()) } else { Ok(()) }
    }
}

fn broken() -> JournalError {
    JournalError::Failed {
        what: "using the journal".to_owned(),
        source: io::Error::other("an injected fault"),
    }
}

impl Drop for MemoryJournal {
    fn drop(&mut self) {
        if self.exclusive {
            self.disk.state().open = false;
        }
    }
}

impl Journal for MemoryJournal {
    fn acquire(&mut self) -> Result<Tail, JournalError> {
        self.check_usable()?;
        let mut state = self.disk.state();
        state.epoch.0 += 1;
        Ok(state.tail())
    }

    fn tail(&mut self) -> Result<Tail, JournalError> {
        self.check_usable()?;
        Ok(self.disk.state().tail())
    }

    fn append(&mut self, tail: &Tail, digest: Digest, bytes: Bytes) -> Result<Tail, JournalError> {
        self.check_usable()?;
        let mut state = self.disk.state();
        let found = state.tail();
        if *tail != found {
            return Err(JournalError::Fenced { found });
        }
        let refuse = |what: String| JournalError::Failed {
            what: "appending a record".to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, what),
        };
        let header = RecordHeader::verified(&bytes).map_err(|error| refuse(error.to_string()))?;
        if bytes.len() > RECORD_MAX_BYTES
            || header.length_bytes != bytes.len()
            || header.volume != state.volume
            || header.epoch != tail.epoch
            || header.position != tail.position.next()
            || header.previous != tail.digest
        {
            return Err(refuse(format!(
                "record {} does not follow the tail",
                header.position
            )));
        }
        let fault = state.faults.pop_front();
        if matches!(fault, None | Some(Fault::After | Fault::Unsynced)) {
            state.records.insert(header.position, (digest, bytes));
        }
        match fault {
            None => {
                state.appends += 1;
                Ok(state.tail())
            }
            Some(Fault::Before | Fault::After) => Err(JournalError::Unknown("an injected fault".into())),
            Some(Fault::Full) => Err(JournalError::Full("memory".to_owned())),
            Some(Fault::Torn | Fault::Unsynced) => {
                drop(state);
                self.broken = true;
                Err(broken())
            }
        }
    }

    fn read(&mut self, from: Position, max_bytes: usize) -> Result<Vec<Bytes>, JournalError> {
        self.check_usable()?;
        self.disk.read(from, max_bytes)
    }

    fn trim(&mut self, first: Position) -> Result<(), JournalError> {
        self.check_usable()?;
        let mut state = self.disk.state();
        while let Some((position, (digest, _))) = state.records.first_key_value().map(|(p, r)| (*p, r.clone()))
            && position < first
            // As in the file engine, the last record stays: it is what the tail is known by.
            && state.records.len() > 1
        {
            state.records.remove(&position);
            state.start = Tail {
                epoch: state.epoch,
                position,
                digest,
            };
        }
        Ok(())
    }
}
