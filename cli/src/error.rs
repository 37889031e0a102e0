//! What a command tells a person when it fails.

use std::error::Error;

use twinshore_protocol::session::{ConnectError, RequestError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The metadata service could not be reached or refused.
    #[error("cannot open a session with the metadata service at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// A request failed.
    #[error("cannot {what}")]
    Request {
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: RequestError,
    },
    /// Something else failed, which the source describes.
    #[error("cannot {what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl CommandError {
    /// Wraps a failure with what was tried.
    pub fn failed<E: Into<Box<dyn Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Failed {
            what,
            source: source.into(),
        }
    }
}

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
