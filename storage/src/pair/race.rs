//! Two attempts, the second only when the first fails or is slow; the first success wins.

use std::time::Duration;

use tokio::task::JoinHandle;
use twinshore_protocol::Side;

use super::side::AttemptError;

/// An attempt that runs by itself: the loser of a race goes on to its end, so that its outcome reaches the breaker.
pub(super) struct Running<T> {
    pub(super) side: Side,
    pub(super) task: JoinHandle<Result<T, AttemptError>>,
}

/// Why the second attempt is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The first has failed.
    Failed,
    /// The first is slow.
    Slow,
}

/// How a race ended.
pub(super) struct Raced<T> {
    /// The side that won, and whether it was the second attempt, started because the first was slow.
    pub(super) won: Option<(Side, T)>,
    /// The second attempt was started because the first was slow.
    pub(super) hedged: bool,
    /// What failed before that.
    pub(super) failed: Vec<(Side, AttemptError)>,
}

/// Runs the race. `second` starts the second attempt, or returns `None` if there is none to start.
pub(super) async fn race<T: Send + 'static>(
    first: Running<T>,
    slow_after: Duration,
    mut second: impl FnMut(Why) -> Option<Running<T>>,
) -> Raced<T> {
    let mut raced = Raced {
        won: None,
        hedged: false,
        failed: Vec::new(),
    };
    let Running {
        side: first_side,
        task: mut first,
    } = first;
    let outcome = tokio::select! {
        biased;
        outcome = &mut first => Some(outcome),
        () = tokio::time::sleep(slow_after) => None,
    };
    let Some(outcome) = outcome else {
        let Some(Running {
            side: second_side,
            task: mut second,
        }) = second(Why::Slow)
        else {
            raced.settle(first_side, finished(first.await));
            if raced.won.is_none()
                && let Some(Running { side, task }) = second(Why::Failed)
            {
                raced.settle(side, finished(task.await));
            }
            return raced;
        };
        raced.hedged = true;
        tokio::select! {
            biased;
            outcome = &mut first => {
                raced.settle(first_side, finished(outcome));
                if raced.won.is_none() {
                    raced.settle(second_side, finished(second.await));
                }
            }
            outcome = &mut second => {
                raced.settle(second_side, finished(outcome));
                if raced.won.is_none() {
                    raced.settle(first_side, finished(first.await));
                }
            }
        }
        return raced;
    };
    raced.settle(first_side, finished(outcome));
    if raced.won.is_none()
        && let Some(Running { side, task }) = second(Why::Failed)
    {
        raced.settle(side, finished(task.await));
    }
    raced
}

impl<T> Raced<T> {
    fn settle(&mut self, side: Side, outcome: Result<T, AttemptError>) {
        match outcome {
            Ok(value) => self.won = Some((side, value)),
            Err(error) => self.failed.push((side, error)),
        }
    }
}

/// An attempt whose task ended without an outcome (the runtime is going down) counts as failed.
fn finished<T>(joined: Result<Result<T, AttemptError>, tokio::task::JoinError>) -> Result<T, AttemptError> {
    joined.unwrap_or_else(|error| Err(AttemptError::Failed(format!("the attempt was cut off: {error}"))))
}
