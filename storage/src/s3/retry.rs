//! Attempts at one request: a limit of time for each, and few of them.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::classify::{Action, Failure};
use crate::bucket::BucketError;

/// Attempts, at most. What needs more than that is for the pair and the worker to wait for; these are for a connection
/// that the store has closed and for an occasional 500 or 503.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; it is doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long an attempt may take, besides the time for its bytes.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(8);
/// The slowest rate that is waited for.
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// Makes attempts until one succeeds, or fails for good, or there have been enough.
pub(super) async fn retried<T, F, Fut>(
    retries: &AtomicU64,
    bytes: u64,
    action: &Action<'_>,
    mut attempt: F,
) -> Result<T, BucketError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let limit = ATTEMPT_LIMIT + Duration::from_millis(bytes.saturating_mul(1_000) / SLOWEST_BYTES_PER_SECOND);
    let mut pause = FIRST_PAUSE;
    let mut number = 1;
    loop {
        let Ok(outcome) = tokio::time::timeout(limit, attempt()).await else {
            // It has taken long enough; another attempt would only double that. The pair has another bucket to go to.
            return Err(action.unavailable(&format_args!("no answer within {} s", limit.as_secs())));
        };
        match outcome {
            Ok(value) => return Ok(value),
            Err(Failure { error, again: true }) if number < ATTEMPTS => {
                tracing::debug!(%error, number, "request to a bucket is sent again");
                retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pause).await;
                pause *= 2;
                number += 1;
            }
            Err(Failure { error, .. }) => return Err(error),
        }
    }
}
