//! Showing an error with its causes, and what went wrong with a volume in one word.

use std::error::Error;

use twinshore_crds::conditions::Reason;

/// The message of an error and of all its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// An error that is shown in a condition, an event and a metric.
pub trait Categorised: Error {
    /// In one word.
    fn reason(&self) -> Reason;
    /// Whether trying again can help without anything being changed.
    fn is_retryable(&self) -> bool;
}
