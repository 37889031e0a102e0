//! What an error of an S3 store means, and what to do about it.

use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::bucket::BucketError;

/// What was tried, for messages.
pub(super) struct Action<'a> {
    pub(super) verb: &'static str,
    pub(super) key: &'a str,
    pub(super) bucket: &'a str,
    pub(super) location: &'a str,
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in {}", self.verb, self.key, self.location)
    }
}

impl Action<'_> {
    pub(super) fn unavailable(&self, why: &dyn fmt::Display) -> BucketError {
        BucketError::Unavailable {
            what: format!("{self}: {why}"),
        }
    }
}

/// An error, and whether another attempt at once makes sense.
pub(super) struct Failure {
    pub(super) error: BucketError,
    pub(super) again: bool,
}

impl Failure {
    pub(super) fn last(error: BucketError) -> Self {
        Self { error, again: false }
    }

    pub(super) fn again(error: BucketError) -> Self {
        Self { error, again: true }
    }
}

/// Was a range refused because it begins at the object's end or beyond?
pub(super) fn is_beyond_the_end<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code() == Some("InvalidRange")
        || error
            .raw_response()
            .is_some_and(|raw| raw.status().as_u16() == 416)
}

/// Classifies an error of the SDK.
pub(super) fn failure<E>(error: &SdkError<E, HttpResponse>, action: &Action<'_>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let raw = service.raw();
            let region = raw.headers().get("x-amz-bucket-region");
            by_code(
                service.err().code(),
                service.err().message(),
                Some(raw.status().as_u16()),
                region,
                action,
            )
        }
        SdkError::ConstructionFailure(_) => Failure::last(BucketError::Invalid {
            what: format!("{action}: {}", DisplayErrorContext(error)),
        }),
        // A timeout, a refused or broken connection, an answer that is no answer.
        error => Failure::again(action.unavailable(&DisplayErrorContext(error))),
    }
}

/// Classifies an error by S3's code, and by the status of HTTP where a store sends no code.
#[allow(clippy::match_same_arms)] // A table: one arm for each meaning, in order of precedence.
pub(super) fn by_code(
    code: Option<&str>,
    message: Option<&str>,
    status: Option<u16>,
    bucket_region: Option<&str>,
    action: &Action<'_>,
) -> Failure {
    let said = match (code, message, status) {
        (Some(code), Some(message), _) => format!("{code}: {message}"),
        (Some(code), None, _) => code.to_owned(),
        (None, _, Some(status)) => format!("HTTP status {status}"),
        (None, _, None) => "an error without a code".to_owned(),
    };
    let invalid = |what: String| Failure::last(BucketError::Invalid { what });
    match (code.unwrap_or_default(), status.unwrap_or_default()) {
        ("NoSuchKey" | "NotFound", _) => Failure::last(BucketError::NotFound {
            key: action.key.to_owned(),
        }),
        ("NoSuchBucket", _) => invalid(format!(
            "there is no bucket {:?} at {}: create it, or correct its name",
            action.bucket, action.location
        )),
        (
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "AuthorizationQueryParametersError",
            _,
        )
        | (_, 301 | 307) => invalid(match bucket_region {
            Some(region) => {
                format!("{action}: the bucket is in the region {region}: set it as the bucket's region")
            }
            None => format!("{action}: the bucket is in another region: set the bucket's region ({said})"),
        }),
        ("RequestTimeTooSkewed", _) => invalid(format!(
            "{action}: the clock of this machine is wrong: set it ({said})"
        )),
        ("SignatureDoesNotMatch", _) => Failure::last(BucketError::Denied {
            what: format!("{action}: the secret key does not belong to the access key: correct it ({said})"),
        }),
        ("InvalidAccessKeyId" | "NotSignedUp", _) => Failure::last(BucketError::Denied {
            what: format!("{action}: the access key is not known there: correct it ({said})"),
        }),
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => Failure::last(BucketError::Denied {
            what: format!("{action}: the session token has expired or is wrong: renew it ({said})"),
        }),
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) => Failure::last(BucketError::Denied {
            what: format!(
                "{action}: these keys may not do that: allow reading, writing, listing and deleting ({said})"
            ),
        }),
        // Damaged on the way.
        (
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "RequestTimeout"
            | "OperationAborted",
            _,
        ) => Failure::again(action.unavailable(&said)),
        ("SlowDown" | "InternalError" | "ServiceUnavailable" | "ThrottlingException" | "Throttling", _)
        | (_, 408 | 409 | 425 | 429 | 500..=599) => Failure::again(action.unavailable(&said)),
        ("", 401 | 403) => Failure::last(BucketError::Denied {
            what: format!("{action}: the keys are wrong, or may not do that ({said})"),
        }),
        (_, 401 | 403) => Failure::last(BucketError::Denied {
            what: format!("{action}: {said}"),
        }),
        ("", 404) => Failure::last(BucketError::NotFound {
            key: action.key.to_owned(),
        }),
        _ => invalid(format!("{action}: the store refuses the request ({said})")),
    }
}
