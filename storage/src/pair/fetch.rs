//! Fetching a range of an object's content.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use twinshore_protocol::{ObjectId, Side, Sides};

use super::race::{Raced, Running, Why, race};
use super::read::{ReadBlocks, bound_bytes, read};
use super::side::{AttemptError, SideState, Use};
use super::{BucketPair, Fetched, PairError, Pauses, Shared};
use crate::health::Admission;
use crate::object::object_key;

impl BucketPair {
    /// Fetches the blocks that cover a range of content. `present` is where the object is known to be (a hint; empty if unknown).
    pub async fn fetch(
        &self,
        id: ObjectId,
        present: Sides,
        content: Range<u64>,
    ) -> Result<Fetched, PairError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.options.fetch_deadline;
        let permit = shared.reserve(&content, deadline).await?;
        let permit = Arc::new(permit);
        let mut pauses = Pauses::new();
        let mut verdicts: Vec<(Side, AttemptError)> = Vec::new();
        let mut failed: Vec<(Side, AttemptError)> = Vec::new();
        loop {
            let configured: Vec<Side> = order(shared.near, present)
                .into_iter()
                .filter(|side| shared.side(*side).bucket().is_some())
                .collect();
            if configured.is_empty() {
                return Err(PairError::Unavailable {
                    what: "there is no bucket on either side".to_owned(),
                });
            }
            // A side that has answered once is not asked again: objects do not change, and those that arrive late are
            // announced by metadata.
            let open: Vec<Side> = configured
                .into_iter()
                .filter(|side| !verdicts.iter().any(|(answered, _)| answered == side))
                .collect();
            if open.is_empty() {
                return Err(conclusion(id, &verdicts));
            }
            let mut admitted_at: Option<Instant> = None;
            let raced = shared
                .read_round(id, present, &content, &open, deadline, &permit, &mut admitted_at)
                .await;
            if let Some(Raced {
                won,
                hedged,
                failed: answers,
            }) = raced
            {
                for (side, error) in answers {
                    shared.count(id, side, present, &error);
                    match error {
                        AttemptError::Failed(_) => Shared::remember(&mut failed, side, error),
                        AttemptError::Missing | AttemptError::Damaged(_) => verdicts.push((side, error)),
                    }
                }
                if let Some((read_from, read)) = won {
                    if hedged && open.get(1) == Some(&read_from) {
                        shared.side(read_from).counting.hedges_won.one();
                    }
                    return Ok(shared.finish(id, present, read_from, read, &verdicts));
                }
                if open
                    .iter()
                    .all(|side| verdicts.iter().any(|(answered, _)| answered == side))
                {
                    return Err(conclusion(id, &verdicts));
                }
            }
            if !pauses.pause(admitted_at, deadline).await {
                failed.extend(verdicts);
                return Err(PairError::Unavailable {
                    what: Shared::describe(&failed),
                });
            }
            for side in open {
                shared.side(side).counting.retries.one();
            }
        }
    }
}

/// In which order the sides are asked: near first, unless it is known not to have the object.
fn order(near: Side, present: Sides) -> [Side; 2] {
    if present.is_empty() || present.contains(near) {
        [near, near.other()]
    } else {
        [near.other(), near]
    }
}

/// What is said when every side has answered and none had the bytes.
fn conclusion(id: ObjectId, verdicts: &[(Side, AttemptError)]) -> PairError {
    if verdicts
        .iter()
        .any(|(_, verdict)| matches!(verdict, AttemptError::Damaged(_)))
    {
        PairError::Damaged {
            object: id,
            what: Shared::describe(verdicts),
        }
    } else {
        PairError::Missing { object: id }
    }
}

impl Shared {
    /// Waits for memory for the bytes of a read.
    pub(super) async fn reserve(
        &self,
        content: &Range<u64>,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, PairError> {
        let all = self.options.read_memory_kibibytes();
        let wanted = usize::try_from(bound_bytes(content) >> 10)
            .unwrap_or(usize::MAX)
            .min(all);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        match tokio::time::timeout_at(deadline, Arc::clone(&self.read_memory).acquire_many_owned(wanted))
            .await
        {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(PairError::Unavailable {
                what: "no memory for the read became free".to_owned(),
            }),
        }
    }

    /// One round: asks the open sides in order, those whose breakers admit it. `None` if none does; then `admitted_at` is when one
    /// will.
    #[allow(clippy::too_many_arguments)] // A step of `fetch`, on its locals.
    async fn read_round(
        &self,
        id: ObjectId,
        present: Sides,
        content: &Range<u64>,
        open: &[Side],
        deadline: Instant,
        permit: &Arc<OwnedSemaphorePermit>,
        admitted_at: &mut Option<Instant>,
    ) -> Option<Raced<ReadBlocks>> {
        let mut remaining = open.iter().copied().peekable();
        let mut start = |why: Why| {
            loop {
                let side = *remaining.peek()?;
                if why == Why::Slow {
                    // A hedge is a guess that the other side has it and is faster: not worth a trial of a sick bucket.
                    let known_absent = !present.is_empty() && !present.contains(side);
                    if known_absent || !self.side(side).would_admit(Use::Read) || !self.hedges().spend() {
                        return None;
                    }
                }
                remaining.next();
                match self.side(side).admit(Use::Read) {
                    Admission::Normal | Admission::Trial => {
                        if why == Why::Slow {
                            self.side(side).counting.hedges.one();
                        }
                        return Some(self.start_read(side, id, content, deadline, permit));
                    }
                    Admission::Refused { until } => {
                        *admitted_at = Some(admitted_at.map_or(until, |earlier| earlier.min(until)));
                    }
                }
            }
        };
        let first = start(Why::Failed)?;
        self.hedges().earn();
        let bytes = content.end.saturating_sub(content.start);
        let hedge_after = self
            .options
            .hedge_after(self.side(first.side).p95(Use::Read, bytes));
        Some(race(first, hedge_after, start).await)
    }

    fn start_read(
        &self,
        side: Side,
        id: ObjectId,
        content: &Range<u64>,
        deadline: Instant,
        permit: &Arc<OwnedSemaphorePermit>,
    ) -> Running<ReadBlocks> {
        let state = Arc::clone(self.side(side));
        let bytes = content.end.saturating_sub(content.start);
        let patience = self.patience(&state, Use::Read, bytes, deadline);
        let known = self.headers().get(id);
        let (content, permit) = (content.clone(), Arc::clone(permit));
        let attempt = SideState::attempt(state, Use::Read, bytes, patience, move |requests| async move {
            let outcome = read(requests, object_key(id), content, known).await;
            // The memory is reserved until the last of both attempts is over.
            drop(permit);
            outcome
        });
        Running {
            side,
            task: tokio::spawn(attempt),
        }
    }

    /// Counts and remembers what a side answered.
    fn count(&self, id: ObjectId, side: Side, present: Sides, error: &AttemptError) {
        match error {
            AttemptError::Missing if present.contains(side) => {
                self.side(side).counting.missing.one();
                tracing::warn!(object = %id, %side, "an object is missing where it should be");
            }
            AttemptError::Missing | AttemptError::Failed(_) => {}
            AttemptError::Damaged(error) => {
                self.side(side).counting.damaged.one();
                tracing::warn!(object = %id, %side, %error, "a copy of an object is damaged");
                self.damaged().insert(id, side);
            }
        }
    }

    fn finish(
        &self,
        id: ObjectId,
        present: Sides,
        read_from: Side,
        read: ReadBlocks,
        verdicts: &[(Side, AttemptError)],
    ) -> Fetched {
        self.headers().insert(id, read.header);
        let near = |wanted: fn(&AttemptError) -> bool| {
            verdicts
                .iter()
                .any(|(side, verdict)| *side == self.near && wanted(verdict))
        };
        let known_absent = !present.is_empty() && !present.contains(self.near);
        let near_exists = self.side(self.near).bucket().is_some();
        Fetched {
            first_block: read.first_block,
            content: read.content,
            read_from,
            near_missing: near_exists
                && read_from != self.near
                && (known_absent || near(|verdict| matches!(verdict, AttemptError::Missing))),
            near_damaged: near_exists && near(|verdict| matches!(verdict, AttemptError::Damaged(_))),
        }
    }
}
