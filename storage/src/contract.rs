//! The contract that every bucket keeps, as one function that is run against each: memory, directory, and S3 stores.
//!
//! Other crates reach it with the feature `contract`, to run it against servers that only they can start.

use bytes::Bytes;
use futures::future::try_join_all;

use crate::bucket::{Bucket, BucketError, clipped};

/// Where a bucket does not keep the contract.
#[derive(Debug, thiserror::Error)]
#[error("the bucket breaks its contract: {rule}: {found}")]
pub struct Broken {
    /// The rule.
    rule: &'static str,
    /// What was found.
    found: String,
}

fn expect(rule: &'static str, holds: bool, found: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds {
        Ok(())
    } else {
        Err(Broken { rule, found: found() })
    }
}

fn works<T>(rule: &'static str, outcome: Result<T, BucketError>) -> Result<T, Broken> {
    outcome.map_err(|error| Broken {
        rule,
        found: error.to_string(),
    })
}

fn is_not_found<T>(outcome: &Result<T, BucketError>) -> bool {
    matches!(outcome, Err(BucketError::NotFound { .. }))
}

/// Runs the contract against an empty bucket; leaves it empty.
pub async fn keeps_the_contract(bucket: &dyn Bucket) -> Result<(), Broken> {
    objects_are_read_back(bucket).await?;
    ranges_are_cut_to_the_object(bucket).await?;
    absent_objects_are_not_found(bucket).await?;
    listings_are_in_order(bucket).await?;
    many_at_once(bucket).await?;
    let left = works("the bucket is empty in the end", bucket.list("", None, 10).await)?;
    expect("the bucket is empty in the end", left.is_empty(), || {
        format!("{left:?}")
    })
}

fn content(length: usize) -> Bytes {
    (0..length)
        .map(|at| u8::try_from(at * 31 % 251).unwrap_or(0))
        .collect::<Vec<u8>>()
        .into()
}

async fn objects_are_read_back(bucket: &dyn Bucket) -> Result<(), Broken> {
    let rule = "an object is read back as it was stored, whatever its size";
    for length in [0, 1, 4_096, 65_536, 5_000_000] {
        let body = content(length);
        let key = format!("contract/size-{length}");
        works(rule, bucket.put(&key, body.clone()).await)?;
        let read = works(rule, bucket.get(&key, None).await)?;
        expect(rule, read == body, || format!("{} bytes of {length}", read.len()))?;
        let size = works(rule, bucket.size(&key).await)?;
        expect("the size is the body's", size == length as u64, || {
            format!("{size} for {length}")
        })?;
        works("an object is deleted", bucket.delete(&[key]).await)?;
    }
    let rule = "storing the same object again is harmless, with a checksum or without";
    let body = content(100_000);
    let checksum = crc32c::crc32c(&body);
    for _ in 0..2 {
        works(rule, bucket.put("contract/again", body.clone()).await)?;
        works(
            rule,
            bucket
                .put_with_checksum("contract/again", body.clone(), checksum)
                .await,
        )?;
    }
    let read = works(rule, bucket.get("contract/again", None).await)?;
    expect(rule, read == body, || format!("{} bytes", read.len()))?;
    works(rule, bucket.delete(&["contract/again".to_owned()]).await)
}

async fn ranges_are_cut_to_the_object(bucket: &dyn Bucket) -> Result<(), Broken> {
    let rule = "a range is answered up to the end of the object";
    let body = content(1_000);
    works(rule, bucket.put("contract/ranges", body.clone()).await)?;
    for (start, end) in [
        (0, 1),
        (0, 1_000),
        (10, 20),
        (999, 1_000),
        (990, 5_000),
        (0, 5_000),
        (5, 5),
    ] {
        let read = works(rule, bucket.get("contract/ranges", Some(start..end)).await)?;
        let expected = body.slice(clipped(&(start..end), body.len()));
        expect(rule, read == expected, || {
            format!("{start}..{end}: {} bytes", read.len())
        })?;
    }
    let rule = "a range that begins at the end or beyond is answered with no bytes";
    for (start, end) in [(1_000, 1_001), (5_000, 6_000)] {
        let read = works(rule, bucket.get("contract/ranges", Some(start..end)).await)?;
        expect(rule, read.is_empty(), || {
            format!("{start}..{end}: {} bytes", read.len())
        })?;
    }
    works(rule, bucket.put("contract/empty", Bytes::new()).await)?;
    let read = works(rule, bucket.get("contract/empty", Some(0..100)).await)?;
    expect(rule, read.is_empty(), || {
        format!("{} bytes of an empty object", read.len())
    })?;
    works(
        rule,
        bucket
            .delete(&["contract/ranges".to_owned(), "contract/empty".to_owned()])
            .await,
    )
}

async fn absent_objects_are_not_found(bucket: &dyn Bucket) -> Result<(), Broken> {
    let rule = "what is not there is not found";
    for key in ["contract/absent", "absent"] {
        let whole = bucket.get(key, None).await;
        expect(rule, is_not_found(&whole), || format!("get: {whole:?}"))?;
        let range = bucket.get(key, Some(0..10)).await;
        expect(rule, is_not_found(&range), || {
            format!("get of a range: {range:?}")
        })?;
        let nothing = bucket.get(key, Some(3..3)).await;
        expect(rule, is_not_found(&nothing), || {
            format!("get of an empty range: {nothing:?}")
        })?;
        let size = bucket.size(key).await;
        expect(rule, is_not_found(&size), || format!("size: {size:?}"))?;
    }
    let rule = "what is not there counts as deleted";
    works(
        rule,
        bucket
            .delete(&["contract/absent".to_owned(), "absent".to_owned()])
            .await,
    )?;
    works(rule, bucket.delete(&[]).await)?;
    let rule = "what was deleted is not found";
    works(rule, bucket.put("contract/gone", content(10)).await)?;
    works(
        rule,
        bucket
            .delete(&["contract/gone".to_owned(), "contract/never".to_owned()])
            .await,
    )?;
    let gone = bucket.get("contract/gone", None).await;
    expect(rule, is_not_found(&gone), || format!("{gone:?}"))
}

async fn listings_are_in_order(bucket: &dyn Bucket) -> Result<(), Broken> {
    let rule = "a listing holds the keys that begin with the prefix and come after the key, in the order of their bytes";
    // `-`, `.` and digits sort around the `/`: the order of keys is not that of directories.
    let keys = [
        "list/a-b/1",
        "list/a.b",
        "list/a/1",
        "list/a/2/x",
        "list/a/2y",
        "list/a0",
        "list/b",
        "listing",
        "other/z",
    ];
    for key in keys {
        works(rule, bucket.put(key, content(key.len())).await)?;
    }
    for prefix in [
        "",
        "l",
        "list",
        "list/",
        "list/a",
        "list/a/",
        "list/a/2",
        "other/",
        "nothing/",
        "list/a/2/x",
    ] {
        for after in [
            None,
            Some("list/a/1"),
            Some("list/a/2"),
            Some("list/a"),
            Some("zzz"),
            Some("a"),
        ] {
            for limit in [1, 3, 100] {
                let listed = works(rule, bucket.list(prefix, after, limit).await)?;
                let expected: Vec<&str> = keys
                    .into_iter()
                    .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| *key > after))
                    .take(limit)
                    .collect();
                let found: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
                expect(rule, found == expected, || {
                    format!("{prefix:?} after {after:?}: {found:?}")
                })?;
                let sizes = listed
                    .iter()
                    .all(|object| object.size_bytes == object.key.len() as u64);
                expect("a listing tells the sizes", sizes, || format!("{listed:?}"))?;
            }
        }
    }
    works(rule, bucket.delete(&keys.map(str::to_owned)).await)
}

async fn many_at_once(bucket: &dyn Bucket) -> Result<(), Broken> {
    let rule = "many requests at once do not disturb each other, and listings and deletions go beyond a page of 1000";
    let keys: Vec<String> = (0..1_200).map(|n| format!("many/{n:04}")).collect();
    for chunk in keys.chunks(32) {
        works(
            rule,
            try_join_all(
                chunk
                    .iter()
                    .map(|key| bucket.put(key, Bytes::copy_from_slice(key.as_bytes()))),
            )
            .await,
        )?;
    }
    let listed = works(rule, bucket.list("many/", None, 5_000).await)?;
    let in_order = listed.iter().map(|object| &object.key).eq(keys.iter());
    expect(rule, in_order, || format!("{} of {}", listed.len(), keys.len()))?;
    let read = works(
        rule,
        try_join_all(keys[..64].iter().map(|key| bucket.get(key, None))).await,
    )?;
    expect(
        rule,
        read.iter().zip(&keys).all(|(body, key)| body == key.as_bytes()),
        || "another's body".to_owned(),
    )?;
    works(rule, bucket.delete(&keys).await)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::directory::DirectoryBucket;
    use crate::memory::MemoryBucket;

    #[tokio::test]
    async fn a_bucket_in_memory_keeps_the_contract() {
        keeps_the_contract(&MemoryBucket::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        keeps_the_contract(&DirectoryBucket::open(directory.path()).await.unwrap())
            .await
            .unwrap();
    }
}
