//! What this machine allows without any file system: its disk, and its S3 servers.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region as SigningRegion};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::BUCKET;
use twinshore_testbed::s3server::S3Server;

use crate::measure::PATIENCE;

/// An append of a small record.
const APPEND_BYTES: usize = 4 << 10;

/// Durable appends to a new file, one after the other.
pub async fn durable_appends(directory: &Path, count: usize) -> Result<Duration, Failure> {
    let path = directory.join("fdatasync");
    blocking("measuring the disk", PATIENCE, move || {
        let measure = || {
            let mut file = File::create(&path)?;
            let started = Instant::now();
            for _ in 0..count {
                file.write_all(&[7; APPEND_BYTES])?;
                file.sync_data()?;
            }
            let took = started.elapsed();
            std::fs::remove_file(&path)?;
            std::io::Result::Ok(took)
        };
        measure().map_err(Failure::io("measure the disk"))
    })
    .await
}

/// A bucket, with nothing of ours in between.
#[derive(Clone)]
pub struct Store(aws_sdk_s3::Client);

impl Store {
    /// The bucket of a server.
    pub fn new(server: &S3Server) -> Self {
        let keys = server.keys();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(SigningRegion::new("us-east-1"))
            .endpoint_url(format!("http://{}", server.address()))
            .credentials_provider(Credentials::new(
                &keys.access_key,
                &keys.secret_key,
                None,
                None,
                "bench",
            ))
            .force_path_style(true)
            .build();
        Self(aws_sdk_s3::Client::from_conf(config))
    }

    /// Stores an object.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), Failure> {
        let request = self.0.put_object().bucket(BUCKET).key(key);
        let result = request.body(ByteStream::from(body)).send().await;
        result.map(drop).map_err(|error| wrong(&format!("{error:?}")))
    }

    /// Reads an object.
    pub async fn get(&self, key: &str) -> Result<Bytes, Failure> {
        let request = self.0.get_object().bucket(BUCKET).key(key);
        let answer = request
            .send()
            .await
            .map_err(|error| wrong(&format!("{error:?}")))?;
        let body = answer
            .body
            .collect()
            .await
            .map_err(|error| wrong(&error.to_string()))?;
        Ok(body.into_bytes())
    }

    /// Deletes an object.
    pub async fn delete(&self, key: &str) -> Result<(), Failure> {
        let result = self.0.delete_object().bucket(BUCKET).key(key).send().await;
        result.map(drop).map_err(|error| wrong(&format!("{error:?}")))
    }
}

fn wrong(reason: &str) -> Failure {
    Failure::Wrong(format!("the S3 server cannot be measured: {reason}"))
}

/// Does something for each number below `count`, with so many in flight; how long all took.
pub async fn in_flight<F>(
    count: usize,
    in_flight: usize,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Result<Duration, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(in_flight));
    let mut calls = JoinSet::new();
    let started = Instant::now();
    for number in 0..count {
        // Taken before spawning: only what is in flight takes memory.
        let place = Arc::clone(&places).acquire_owned().await;
        let call = one(number);
        calls.spawn(async move {
            let result = call.await;
            drop(place);
            result
        });
        while let Some(ended) = calls.try_join_next() {
            flatten(ended)?;
        }
    }
    while let Some(ended) = calls.join_next().await {
        flatten(ended)?;
    }
    Ok(started.elapsed())
}

fn flatten(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    ended.map_err(|error| Failure::Thread {
        what: "a call of the benchmark".to_owned(),
        reason: error.to_string(),
    })?
}

/// A body that compresses badly and differs by its number.
pub fn body(number: usize, size_bytes: usize) -> Bytes {
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size_bytes + 8);
    while bytes.len() < size_bytes {
        // xorshift64: cheap, so that making bodies is no part of what is measured.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size_bytes);
    bytes.into()
}

/// How fast objects are stored, and read again.
pub async fn put_and_get(
    store: &Store,
    count: usize,
    size_bytes: usize,
    places: usize,
) -> Result<(Duration, Duration), Failure> {
    let key = |number: usize| format!("raw/{number}");
    let content = body(0, size_bytes);
    let client = store.clone();
    let put = in_flight(count, places, move |number| {
        let (client, content) = (client.clone(), content.clone());
        async move { client.put(&key(number), content).await }
    })
    .await?;
    let client = store.clone();
    let get = in_flight(count, places, move |number| {
        let client = client.clone();
        async move { client.get(&key(number)).await.map(drop) }
    })
    .await?;
    delete(store, "raw", count).await?;
    Ok((put, get))
}

/// Removes numbered objects.
pub async fn delete(store: &Store, prefix: &'static str, count: usize) -> Result<(), Failure> {
    let client = store.clone();
    in_flight(count, 64, move |number| {
        let client = client.clone();
        async move { client.delete(&format!("{prefix}/{number}")).await }
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn bodies_differ_by_number_and_have_their_size() {
        assert_eq!(body(1, 4097).len(), 4097);
        assert_eq!(body(1, 100), body(1, 100));
        assert_ne!(body(1, 100), body(2, 100));
    }

    #[tokio::test]
    async fn the_first_failure_of_calls_in_flight_is_returned() {
        let result = in_flight(100, 8, |number| async move {
            if number == 50 {
                Err(Failure::Wrong("fifty".to_owned()))
            } else {
                Ok(())
            }
        })
        .await;
        assert!(result.unwrap_err().to_string().contains("fifty"));
    }
}
