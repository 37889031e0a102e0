//! A bucket of an S3 store.
//!
//! Settings and why (measured with aws-sdk-s3 1.157 on loopback):
//! * The payload is not signed; a CRC-32C that the caller knows goes along as a header, and the store checks what arrived.
//!   Signing would hash every byte once more (SHA-256, three times the cost of everything else).
//! * Bodies are in memory, so the SDK never falls back to `aws-chunked` trailers, which some stores do not understand;
//!   checksums of its own are off for the same reason (`WhenRequired`).
//! * One attempt per call of the SDK: retries, with a limit of time by the size of the request, are made here ([`retry`]).
//! * Idle connections are dropped after 20 s, before stores close them, which would fail the next request.
//! * Safety never rests on conditional requests: some stores ignore them.

mod classify;
mod client;
mod retry;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;

use crate::bucket::{Bucket, BucketError, Listed};
use crate::buffer::Buffer;
use crate::location::{BucketLocation, Credentials, OpenOptions, S3Location};
use classify::{Action, Failure};

/// Keys of one request to delete: the protocol's limit.
const KEYS_PER_DELETE: usize = 1_000;
/// Keys of one page of a listing: the protocol's limit.
const KEYS_PER_PAGE: usize = 1_000;
/// What a whole object is assumed to be, at most, when a time limit for reading it is needed.
const ASSUMED_OBJECT_BYTES: u64 = 32 << 20;

/// A bucket of an S3 store.
pub struct S3Bucket {
    client: Client,
    bucket: String,
    prefix: String,
    /// For messages.
    location: String,
    retries: AtomicU64,
}

impl S3Bucket {
    /// Makes a client for a bucket. Fails if there are no credentials, or if the certificates cannot be read.
    pub async fn open(
        location: &S3Location,
        credentials: &Credentials,
        options: &OpenOptions,
    ) -> Result<Self, BucketError> {
        Ok(Self {
            client: client::build(location, credentials, options).await?,
            bucket: location.bucket.clone(),
            prefix: location.prefix.clone(),
            location: BucketLocation::S3(location.clone()).to_string(),
            retries: AtomicU64::new(0),
        })
    }

    /// Requests that were sent again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn action<'a>(&'a self, verb: &'static str, key: &'a str) -> Action<'a> {
        Action {
            verb,
            key,
            bucket: &self.bucket,
            location: &self.location,
        }
    }

    async fn put_body(&self, key: &str, body: Bytes, checksum: u32) -> Result<(), BucketError> {
        let action = self.action("put", key);
        let bytes = body.len() as u64;
        retry::retried(&self.retries, bytes, &action, || async {
            self.client
                .put_object()
                .bucket(&self.bucket)
                .key(self.full_key(key))
                .checksum_crc32_c(base64(checksum))
                .body(ByteStream::from(body.clone()))
                .customize()
                .disable_payload_signing()
                .send()
                .await
                .map(drop)
                .map_err(|error| classify::failure(&error, &action))
        })
        .await
    }

    /// Reads the body of one answer into one buffer.
    async fn read_body(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes, Failure> {
        let action = self.action("get", key);
        let sent = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            // The last byte of HTTP's ranges is inclusive.
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)))
            .send()
            .await;
        let output = match sent {
            Ok(output) => output,
            // It begins at the end of the object or beyond.
            Err(error) if range.is_some() && classify::is_beyond_the_end(&error) => return Ok(Bytes::new()),
            Err(error) => return Err(classify::failure(&error, &action)),
        };
        let length = output
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        if let (Some(range), Some(length)) = (range, length)
            && length as u64 > range.end - range.start
        {
            return Err(Failure::last(BucketError::Invalid {
                what: format!("{action}: the store does not answer ranges (it sent {length} bytes)"),
            }));
        }
        let mut stream = output.body;
        // One buffer of the right size: what is kept of it in a cache keeps nothing else, and the connection's own buffer, from which
        // each piece is copied while it is in the processor's cache, is used again for the next.
        let expected = length.map_or(0, |length| length.min(range_length(range)));
        let mut body = Buffer::with_capacity(expected);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Failure::again(action.unavailable(&error)))?;
            let needed = body.len() + chunk.len();
            if needed > body.capacity() {
                body.grow_to(needed * 2);
            }
            body.extend_from_slice(&chunk);
        }
        let body = body.freeze();
        if length.is_some_and(|length| length != body.len()) {
            return Err(Failure::again(action.unavailable(&"the answer was cut short")));
        }
        Ok(body)
    }

    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool), BucketError> {
        let action = self.action("list", prefix);
        let output = retry::retried(&self.retries, 0, &action, || async {
            self.client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.full_key(prefix))
                .set_start_after(after.map(|after| self.full_key(after)))
                .max_keys(i32::try_from(limit).unwrap_or(i32::MAX))
                .send()
                .await
                .map_err(|error| classify::failure(&error, &action))
        })
        .await?;
        let listed = output
            .contents()
            .iter()
            .filter_map(|object| {
                Some(Listed {
                    key: object.key()?.strip_prefix(&self.prefix)?.to_owned(),
                    size_bytes: object
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                    modified_seconds: object
                        .last_modified()
                        .map_or(0, aws_sdk_s3::primitives::DateTime::secs),
                })
            })
            .collect();
        Ok((listed, output.is_truncated().unwrap_or(false)))
    }
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        let checksum = crc32c::crc32c(&body);
        self.put_body(key, body, checksum).await
    }

    async fn put_with_checksum(&self, key: &str, body: Bytes, checksum: u32) -> Result<(), BucketError> {
        self.put_body(key, body, checksum).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            // HTTP cannot ask for nothing; but whether the object exists is part of the answer.
            return self.size(key).await.map(|_| Bytes::new());
        }
        let bytes = range
            .as_ref()
            .map_or(ASSUMED_OBJECT_BYTES, |range| range.end - range.start);
        retry::retried(&self.retries, bytes, &self.action("get", key), || {
            self.read_body(key, range.as_ref())
        })
        .await
    }

    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        let action = self.action("head", key);
        let output = retry::retried(&self.retries, 0, &action, || async {
            self.client
                .head_object()
                .bucket(&self.bucket)
                .key(self.full_key(key))
                .send()
                .await
                .map_err(|error| classify::failure(&error, &action))
        })
        .await?;
        output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .ok_or_else(|| action.unavailable(&"the store did not say the object's size"))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        for chunk in keys.chunks(KEYS_PER_DELETE) {
            let action = self.action("delete", chunk.first().map_or("", String::as_str));
            let mut objects = Vec::with_capacity(chunk.len());
            for key in chunk {
                let object = ObjectIdentifier::builder().key(self.full_key(key)).build();
                objects.push(object.map_err(|error| BucketError::Invalid {
                    what: format!("{action}: {error}"),
                })?);
            }
            let delete = Delete::builder()
                .set_objects(Some(objects))
                .quiet(true)
                .build()
                .map_err(|error| BucketError::Invalid {
                    what: format!("{action}: {error}"),
                })?;
            retry::retried(&self.retries, 0, &action, || async {
                let output = self
                    .client
                    .delete_objects()
                    .bucket(&self.bucket)
                    .delete(delete.clone())
                    .send()
                    .await
                    .map_err(|error| classify::failure(&error, &action))?;
                let failed = output
                    .errors()
                    .iter()
                    .find(|error| error.code() != Some("NoSuchKey"));
                failed.map_or(Ok(()), |error| {
                    Err(classify::by_code(
                        error.code(),
                        error.message(),
                        None,
                        None,
                        &action,
                    ))
                })
            })
            .await?;
        }
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        let mut listed: Vec<Listed> = Vec::new();
        let mut after = after.map(str::to_owned);
        while listed.len() < limit {
            let wanted = (limit - listed.len()).min(KEYS_PER_PAGE);
            let (page, more) = self.page(prefix, after.as_deref(), wanted).await?;
            let Some(last) = page.last() else { break };
            if after
                .as_deref()
                .is_some_and(|after| page.iter().any(|object| object.key.as_str() <= after))
            {
                return Err(BucketError::Invalid {
                    what: format!(
                        "{}: the store does not list keys in order",
                        self.action("list", prefix)
                    ),
                });
            }
            after = Some(last.key.clone());
            listed.extend(page);
            if !more {
                break;
            }
        }
        listed.truncate(limit);
        Ok(listed)
    }
}

/// What a store may announce without being believed: the length of the range, or what is assumed of a whole object.
fn range_length(range: Option<&Range<u64>>) -> usize {
    let bytes = range.map_or(ASSUMED_OBJECT_BYTES, |range| range.end - range.start);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A CRC-32C as S3's headers want it: big endian, base64.
fn base64(checksum: u32) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 32 bits and 4 zero bits are six digits of six bits; two `=` fill the group.
    let bits = u64::from(checksum) << 4;
    let digit = |n: u32| char::from(ALPHABET[(bits >> (6 * (5 - n)) & 0x3f) as usize]);
    (0..6).map(digit).chain(['=', '=']).collect()
}
