//! Storing an object.

use std::sync::Arc;

use tokio::time::Instant;
use twinshore_protocol::{ObjectId, Side};

use super::race::{Running, Why, race};
use super::side::{AttemptError, SideState, Use};
use super::{BucketPair, PairError, Pauses, Shared};
use crate::health::Admission;
use crate::object::{EncodedObject, object_key};

impl BucketPair {
    /// Stores an object in the near bucket, or in the far one when near cannot have it now. Says where it is.
    ///
    /// On `Unavailable` nothing is known: a store that timed out may still be carried out. The object's name is unique,
    /// so storing the same object again is harmless, and an object that nobody names is removed by a full synchronisation.
    pub async fn store(&self, id: ObjectId, object: &EncodedObject) -> Result<Side, PairError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.options.store_deadline;
        let mut pauses = Pauses::new();
        let mut failed: Vec<(Side, AttemptError)> = Vec::new();
        loop {
            let order: Vec<Side> = [shared.near, shared.far()]
                .into_iter()
                .filter(|side| shared.side(*side).bucket().is_some())
                .collect();
            if order.is_empty() {
                return Err(PairError::Unavailable {
                    what: "there is no bucket on either side".to_owned(),
                });
            }
            let mut admitted_at: Option<Instant> = None;
            let mut remaining = order.iter().copied();
            let mut start = |_: Why| loop {
                let side = remaining.next()?;
                match shared.side(side).admit(Use::Write) {
                    Admission::Normal | Admission::Trial => {
                        return Some(shared.start_store(side, id, object, deadline));
                    }
                    Admission::Refused { until } => {
                        admitted_at = Some(admitted_at.map_or(until, |earlier: Instant| earlier.min(until)));
                    }
                }
            };
            if let Some(first) = start(Why::Failed) {
                let state = shared.side(first.side);
                let slow_after = shared.options.suspicious_after(
                    object.stored_bytes(),
                    state.p95(Use::Write, object.stored_bytes()),
                );
                let raced = race(first, slow_after, &mut start).await;
                if let Some((side, ())) = raced.won {
                    return Ok(side);
                }
                for (side, error) in raced.failed {
                    Shared::remember(&mut failed, side, error);
                }
            }
            if !pauses.pause(admitted_at, deadline).await {
                return Err(PairError::Unavailable {
                    what: Shared::describe(&failed),
                });
            }
            for side in order {
                shared.side(side).counting.retries.one();
            }
        }
    }
}

impl Shared {
    fn start_store(
        &self,
        side: Side,
        id: ObjectId,
        object: &EncodedObject,
        deadline: Instant,
    ) -> Running<()> {
        let state = Arc::clone(self.side(side));
        let bytes = object.stored_bytes();
        let patience = self.patience(&state, Use::Write, bytes, deadline);
        let (key, body, checksum) = (object_key(id), object.body.clone(), object.checksum);
        let attempt = SideState::attempt(state, Use::Write, bytes, patience, move |requests| async move {
            match requests.put(&key, body, checksum).await {
                Ok(()) => Ok(()),
                // A put has nothing to miss: the bucket or a directory of it is gone.
                Err(error) => Err(AttemptError::Failed(error.to_string())),
            }
        });
        Running {
            side,
            task: tokio::spawn(attempt),
        }
    }
}
