//! What happens before the first input: a new volume, and the replay of a journal into a view.
//!
//! All functions block. They work on the traits, so the simulation restarts a service as production does.

use bytes::Bytes;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::{Caller, Position, SessionId, Side, Timestamp, VolumeId};

use crate::core::{self, Context, CoreError, Maintenance, VolumeLimits};
use crate::journal::record::{Record, RecordError};
use crate::journal::{Digest, Journal, JournalError, Tail};
use crate::view::{ViewError, ViewStore};

/// How much of the journal is read at a time.
const READ_BYTES: usize = 4 << 20;

/// How often an append whose outcome was found out to be "not appended" is sent again.
const ATTEMPTS_MAX: u32 = 3;

/// A volume cannot be created or recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record makes no sense.
    #[error("record {position} of the journal cannot be read")]
    Record {
        /// Its position.
        position: Position,
        /// What is wrong.
        #[source]
        source: RecordError,
    },
    /// A record does not follow the one before it.
    #[error("record {position} of the journal is not the one that belongs there: {what}")]
    Misplaced {
        /// Where it stands.
        position: Position,
        /// What does not fit.
        what: &'static str,
    },
    /// The view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The core.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// There is a volume already.
    #[error("the journal already holds a volume")]
    NotEmpty,
    /// The core does not accept the format.
    #[error("the format of the volume is not valid: {0}")]
    Format(twinshore_protocol::Errno),
}

/// Takes the journal over and applies what the store lacks. The tail is in the new epoch.
pub fn recover(
    journal: &mut dyn Journal,
    store: &mut dyn ViewStore,
    volume: VolumeId,
) -> Result<Tail, RecoveryError> {
    let tail = journal.acquire()?;
    let mut previous: Option<Digest> = None;
    while store.applied() < tail.position {
        let records = journal.read(store.applied().next(), READ_BYTES)?;
        if records.is_empty() {
            let position = store.applied().next();
            return Err(RecoveryError::Misplaced {
                position,
                what: "it is missing",
            });
        }
        for bytes in records {
            let position = store.applied().next();
            let (record, digest) =
                Record::decode(&bytes).map_err(|source| RecoveryError::Record { position, source })?;
            let misplaced = |what| RecoveryError::Misplaced { position, what };
            if record.volume != volume {
                return Err(misplaced("it belongs to another volume"));
            }
            if record.position != position {
                return Err(misplaced("its position is another"));
            }
            if previous.is_some_and(|previous| previous != record.previous) {
                return Err(misplaced("its digest chain is broken"));
            }
            store.apply(position, &record.mutations)?;
            previous = Some(digest);
        }
    }
    if previous.is_some_and(|previous| previous != tail.digest) {
        return Err(RecoveryError::Misplaced {
            position: tail.position,
            what: "it is not the tail",
        });
    }
    Ok(tail)
}

/// Makes a volume: the first record of an empty journal. A view hears of it by [`recover`].
pub fn create(
    journal: &mut dyn Journal,
    format: &VolumeFormat,
    limits: VolumeLimits,
    now: Timestamp,
) -> Result<Tail, RecoveryError> {
    let tail = journal.acquire()?;
    if tail.position != Position::ZERO {
        return Err(RecoveryError::NotEmpty);
    }
    let nothing_open = std::collections::BTreeSet::new();
    let position = tail.position.next();
    let context = Context {
        now,
        position,
        epoch: tail.epoch,
        session: SessionId(0),
        near: Side::Primary,
        caller: &Caller::ROOT,
        open: &nothing_open,
    };
    let made = {
        let empty = crate::view::memory::MemoryView::new();
        core::maintain(
            &empty,
            &context,
            &Maintenance::CreateVolume {
                format: format.clone(),
                limits,
            },
        )?
    };
    made.result.map_err(RecoveryError::Format)?;
    let record = Record {
        volume: format.volume,
        epoch: tail.epoch,
        position,
        previous: tail.digest,
        time: now,
        mutations: made.mutations,
        changes: made.changes,
    };
    let (bytes, digest) = record.encode();
    Ok(append(journal, &tail, digest, &bytes)?)
}

/// Appends, and finds out what became of an append whose outcome is unknown.
pub fn append(
    journal: &mut dyn Journal,
    tail: &Tail,
    digest: Digest,
    bytes: &Bytes,
) -> Result<Tail, JournalError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let unknown = match journal.append(tail, digest, bytes.clone()) {
            Err(error @ JournalError::Unknown(_)) => error,
            result => return result,
        };
        let found = journal.tail()?;
        if found.epoch == tail.epoch && found.position == tail.position.next() && found.digest == digest {
            return Ok(found);
        }
        if found != *tail {
            return Err(JournalError::Fenced { found });
        }
        if attempts >= ATTEMPTS_MAX {
            return Err(unknown);
        }
    }
}
