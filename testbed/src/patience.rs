//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::Duration;

use tokio::time::Instant;

/// How often a condition outside this process is looked at. Short against a human, long against a look.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// A condition did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {waited_seconds} s for {what}; last seen: {last}")]
pub struct Impatient {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub waited_seconds: u64,
    /// What was seen instead.
    pub last: String,
}

/// One look at a condition.
pub enum Look<T> {
    /// It is true, with what was found.
    Done(T),
    /// Not yet; what was seen instead.
    NotYet(String),
}

/// Looks again and again until the condition is true or the deadline has passed. There is always one look, and a last
/// one after the deadline.
pub async fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Look<T>,
) -> Result<T, Impatient> {
    let deadline = Instant::now() + patience;
    loop {
        let is_last = Instant::now() >= deadline;
        match look().await {
            Look::Done(found) => return Ok(found),
            Look::NotYet(last) if is_last => {
                return Err(Impatient {
                    what: what.to_owned(),
                    waited_seconds: patience.as_secs(),
                    last,
                });
            }
            Look::NotYet(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_comes_true_is_found() {
        let mut looks = 0;
        let found = wait_for("three looks", Duration::from_secs(1), async || {
            looks += 1;
            if looks == 3 {
                Look::Done(looks)
            } else {
                Look::NotYet(format!("{looks} looks"))
            }
        })
        .await;
        assert_eq!(found.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_stays_false_says_what_was_seen() {
        let error = wait_for::<()>("rain", Duration::from_secs(2), async || {
            Look::NotYet("sun".to_owned())
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 2 s for rain; last seen: sun");
    }
}
