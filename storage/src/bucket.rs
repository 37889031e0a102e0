//! One bucket, wherever it is.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// Why a bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// There is no such key.
    #[error("{key} is not in the bucket")]
    NotFound {
        /// The key.
        key: String,
    },
    /// It may work later: timeout, connection, 5xx, throttling. The outcome of a write is unknown.
    #[error("the bucket does not answer: {what}")]
    Unavailable {
        /// What was tried, and what the store said.
        what: String,
    },
    /// The credentials are wrong or do not suffice. A person has to do something.
    #[error("the bucket refuses the credentials: {what}")]
    Denied {
        /// What was tried, and what the store said.
        what: String,
    },
    /// The bucket does not exist or the request makes no sense to it. A person has to do something.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what to do.
        what: String,
    },
}

impl BucketError {
    /// Does it need a person, rather than time?
    pub const fn needs_a_person(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Invalid { .. })
    }
}

/// A range within a body of so many bytes, cut to it.
pub(crate) fn clipped(range: &Range<u64>, length: usize) -> Range<usize> {
    let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(length);
    cut(range.start)..cut(range.end).max(cut(range.start))
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was stored, in seconds since 1970.
    pub modified_seconds: i64,
}

/// A store of immutable objects. Keys are relative to the bucket's prefix. Every call has a deadline of its own.
#[async_trait]
pub trait Bucket: Send + Sync {
    /// Stores an object. Storing the same key again with the same bytes is harmless.
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError>;

    /// Stores an object whose CRC-32C the caller knows, so that the store can verify what arrived without the bytes
    /// being read once more here.
    async fn put_with_checksum(&self, key: &str, body: Bytes, checksum: u32) -> Result<(), BucketError> {
        // Stores that verify nothing on arrival have no use for it.
        let _ = checksum;
        self.put(key, body).await
    }

    /// Reads an object or a range of it. A range that ends beyond the object is answered up to its end; one that begins
    /// there or beyond, with no bytes.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError>;

    /// The size of an object in bytes.
    async fn size(&self, key: &str) -> Result<u64, BucketError>;

    /// Deletes objects; those that do not exist count as deleted.
    async fn delete(&self, keys: &[String]) -> Result<(), BucketError>;

    /// Objects whose keys begin with `prefix` and come after `after`, in order of their keys (bytes), at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize)
    -> Result<Vec<Listed>, BucketError>;
}
