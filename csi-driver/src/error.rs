//! What goes wrong, and the gRPC code that each is told as.
//!
//! What Kubernetes' sidecars make of a code decides which is right: `Aborted`, `Unavailable` and `DeadlineExceeded` mean that the same call will be made again,
//! for ever if need be, as it may have had an effect; `InvalidArgument`, `FailedPrecondition`, `AlreadyExists` and `NotFound` are final; `ResourceExhausted`
//! may place a pod elsewhere.

use std::error::Error as StdError;
use std::fmt::Write as _;

use tonic::{Code, Status};
use twinshore_protocol::Errno;

/// A call that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It is there with other properties.
    #[error("{0}")]
    Conflict(String),
    /// Another call about the same is under way.
    #[error("another call about {0} is under way")]
    Pending(String),
    /// It is not possible as things stand, and asking again changes nothing by itself.
    #[error("{0}")]
    Precondition(String),
    /// A limit is reached.
    #[error("{0}")]
    Exhausted(String),
    /// A size that cannot be had.
    #[error("{0}")]
    OutOfRange(String),
    /// A part that is needed does not answer now.
    #[error("{what}")]
    Unavailable {
        /// Which, and what to look at.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// It takes too long, and may still come to an end.
    #[error("{0}")]
    Slow(String),
    /// The service does not allow it.
    #[error("{0}")]
    Denied(String),
    /// A listing is continued from a place that there is not.
    #[error("{0}")]
    Token(String),
    /// The system refused something that it should not.
    #[error("cannot {what}")]
    System {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl CallError {
    /// A part does not answer, and why.
    pub fn unavailable(what: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Unavailable {
            what: what.into(),
            source: Some(Box::new(source)),
        }
    }

    /// A part does not answer.
    pub fn not_yet(what: impl Into<String>) -> Self {
        Self::Unavailable {
            what: what.into(),
            source: None,
        }
    }

    /// For `map_err`.
    pub fn system<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::System {
            what,
            source: error.into(),
        }
    }

    /// An error number of the metadata service, about what was being done.
    pub fn from_errno(what: &str, errno: Errno) -> Self {
        let text = format!("cannot {what}: {errno}");
        match errno {
            Errno::NotFound | Errno::Stale => Self::NotFound(text),
            Errno::Exists => Self::Conflict(text),
            Errno::NoSpace | Errno::QuotaExceeded | Errno::TooManyLinks => Self::Exhausted(text),
            Errno::NotPermitted | Errno::AccessDenied => Self::Denied(text),
            Errno::Invalid | Errno::NameTooLong | Errno::TooBig | Errno::OutOfRange | Errno::Overflow => {
                Self::Invalid(text)
            }
            Errno::Busy
            | Errno::NotDirectory
            | Errno::IsDirectory
            | Errno::NotEmpty
            | Errno::CrossDevice
            | Errno::ReadOnly
            | Errno::TextBusy
            | Errno::FileTooBig
            | Errno::Loop
            | Errno::NotImplemented
            | Errno::NotSupported => Self::Precondition(text),
            Errno::Interrupted
            | Errno::InputOutput
            | Errno::BadHandle
            | Errno::Again
            | Errno::Deadlock
            | Errno::NoLocks
            | Errno::NoData
            | Errno::TimedOut => Self::not_yet(text),
        }
    }

    /// The code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::Pending(_) | Self::Token(_) => Code::Aborted,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Slow(_) => Code::DeadlineExceeded,
            Self::Denied(_) => Code::PermissionDenied,
            Self::System { .. } => Code::Internal,
        }
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        Self::new(error.code(), with_causes(&error))
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_code_that_kubernetes_understands() {
        let text = String::new;
        let table = [
            (CallError::Invalid(text()), Code::InvalidArgument),
            (CallError::NotFound(text()), Code::NotFound),
            (CallError::Conflict(text()), Code::AlreadyExists),
            (CallError::Pending(text()), Code::Aborted),
            (CallError::Token(text()), Code::Aborted),
            (CallError::Precondition(text()), Code::FailedPrecondition),
            (CallError::Exhausted(text()), Code::ResourceExhausted),
            (CallError::OutOfRange(text()), Code::OutOfRange),
            (CallError::not_yet(""), Code::Unavailable),
            (CallError::Slow(text()), Code::DeadlineExceeded),
            (CallError::Denied(text()), Code::PermissionDenied),
            (
                CallError::System {
                    what: text(),
                    source: std::io::Error::other("x"),
                },
                Code::Internal,
            ),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }

    #[test]
    fn an_error_number_that_may_pass_is_asked_again_and_one_that_stays_is_not() {
        for (errno, code) in [
            (Errno::NotFound, Code::NotFound),
            (Errno::Exists, Code::AlreadyExists),
            (Errno::NoSpace, Code::ResourceExhausted),
            (Errno::NotPermitted, Code::PermissionDenied),
            (Errno::Invalid, Code::InvalidArgument),
            (Errno::Busy, Code::FailedPrecondition),
            (Errno::InputOutput, Code::Unavailable),
        ] {
            assert_eq!(CallError::from_errno("x", errno).code(), code, "{errno:?}");
        }
    }

    #[test]
    fn causes_are_told() {
        let error = CallError::System {
            what: "mount".to_owned(),
            source: std::io::Error::other("no"),
        };
        assert_eq!(Status::from(error).message(), "cannot mount: no");
    }
}
