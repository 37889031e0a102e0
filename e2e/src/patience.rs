//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at. Most looks start a program, which costs some 50 ms of a core.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

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
#[derive(Debug)]
pub enum Look<T> {
    /// It is true, with what was found.
    Done(T),
    /// Not yet; what was seen instead.
    NotYet(String),
}

impl Look<()> {
    /// True or not.
    pub fn at(is_true: bool, otherwise: impl Into<String>) -> Self {
        if is_true {
            Self::Done(())
        } else {
            Self::NotYet(otherwise.into())
        }
    }
}

/// Looks again and again until the condition is true or the deadline has passed. There is always one look, and a last
/// one after the deadline.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Look<T>,
) -> Result<T, Impatient> {
    let deadline = Instant::now() + patience;
    loop {
        let is_last = Instant::now() >= deadline;
        match look() {
            Look::Done(found) => return Ok(found),
            Look::NotYet(last) if is_last => {
                return Err(Impatient {
                    what: what.to_owned(),
                    waited_seconds: patience.as_secs(),
                    last,
                });
            }
            Look::NotYet(_) => thread::sleep(LOOK_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_found() {
        let mut looks = 0;
        let found = wait_for("two looks", Duration::from_secs(10), || {
            looks += 1;
            if looks == 2 {
                Look::Done(looks)
            } else {
                Look::NotYet(format!("{looks} looks"))
            }
        });
        assert_eq!(found.unwrap(), 2);
    }

    #[test]
    fn a_condition_that_stays_false_says_what_was_seen() {
        let error = wait_for("rain", Duration::ZERO, || Look::at(false, "sun")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for rain; last seen: sun");
    }
}
