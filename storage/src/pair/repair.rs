//! Repairing the copy on one side from the other.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_protocol::{ObjectId, Side};

use super::side::{AttemptError, SideState, Use};
use super::{BucketPair, PairError, Shared};
use crate::object::{object_key, verify};

/// What an object may be, at most, for time and memory: its size is not known before it is read, and the file system
/// writes none that is larger.
const ASSUMED_OBJECT_BYTES: u64 = 16 << 20;

impl BucketPair {
    /// Copies an object, whole and verified, to a side from the other one. A copy that is already there is left alone,
    /// unless a fetch found it damaged.
    ///
    /// One attempt: what must not be forgotten is a task of the replication, which tries again.
    pub async fn repair(&self, id: ObjectId, to: Side) -> Result<(), PairError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.options.store_deadline;
        let damaged = shared.damaged().contains(id, to);
        if !damaged && shared.holds(id, to, deadline).await? {
            return Ok(());
        }
        // Held until the copy is stored.
        let _memory = shared.reserve(&(0..ASSUMED_OBJECT_BYTES), deadline).await?;
        let (body, checksum) = shared.read_whole(id, to.other(), deadline).await?;
        let state = Arc::clone(shared.side(to));
        let bytes = body.len() as u64;
        let patience = shared.patience(&state, Use::Write, bytes, deadline);
        let key = object_key(id);
        SideState::attempt(
            Arc::clone(&state),
            Use::Write,
            bytes,
            patience,
            move |requests| async move {
                requests
                    .put(&key, body, checksum)
                    .await
                    .map_err(|error| AttemptError::Failed(error.to_string()))
            },
        )
        .await
        .map_err(|error| unavailable(to, error))?;
        shared.damaged().remove(id, to);
        state.counting.repairs.one();
        Ok(())
    }
}

impl Shared {
    /// Does the side hold the object?
    async fn holds(&self, id: ObjectId, side: Side, deadline: Instant) -> Result<bool, PairError> {
        let state = Arc::clone(self.side(side));
        let patience = self.patience(&state, Use::Read, 0, deadline);
        let key = object_key(id);
        let asked = SideState::attempt(state, Use::Read, 0, patience, move |requests| async move {
            Ok(requests.size(&key).await?)
        });
        match asked.await {
            Ok(_) => Ok(true),
            Err(AttemptError::Missing) => Ok(false),
            Err(error) => Err(unavailable(side, error)),
        }
    }

    /// The stored bytes of an object, verified, and their CRC-32C.
    async fn read_whole(
        &self,
        id: ObjectId,
        from: Side,
        deadline: Instant,
    ) -> Result<(Bytes, u32), PairError> {
        let state = Arc::clone(self.side(from));
        let patience = self.patience(&state, Use::Read, ASSUMED_OBJECT_BYTES, deadline);
        let key = object_key(id);
        let read = SideState::attempt(
            Arc::clone(&state),
            Use::Read,
            ASSUMED_OBJECT_BYTES,
            patience,
            move |requests| async move {
                let body = requests.get(&key, None).await?;
                verify(&body)?;
                let checksum = crc32c::crc32c(&body);
                Ok((body, checksum))
            },
        );
        read.await.map_err(|error| match error {
            AttemptError::Missing => PairError::Missing { object: id },
            AttemptError::Damaged(error) => {
                state.counting.damaged.one();
                self.damaged().insert(id, from);
                PairError::Damaged {
                    object: id,
                    what: format!("{from}: {error}"),
                }
            }
            AttemptError::Failed(_) => unavailable(from, error),
        })
    }
}

fn unavailable(side: Side, error: AttemptError) -> PairError {
    PairError::Unavailable {
        what: Shared::describe(&[(side, error)]),
    }
}
