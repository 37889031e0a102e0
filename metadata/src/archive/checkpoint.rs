//! A checkpoint: the whole state at one position, as chunks of keys and values in order, and a manifest.
//!
//! Memory is bounded by one chunk, whatever the size of the state.

use bytes::Bytes;
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use twinshore_protocol::format::FORMAT_VERSION;
use twinshore_protocol::{Epoch, Position, VolumeId};
use twinshore_storage::bucket::{Bucket, BucketError};

use super::catalogue::CheckpointName;
use super::sealed::{Kind, Label, SealedError, seal, unseal};
use crate::journal::Digest;
use crate::view::{View, ViewError};

/// A chunk is closed once it has this many bytes: a few milliseconds of compression, one request of a good size.
pub const CHUNK_BYTES: usize = 2 << 20;

/// Pairs read from the state at a time, between which other tasks run.
const PAGE_PAIRS: usize = 512;

/// After the last key: keys begin with a letter.
const END: [u8; 1] = [0xff];

/// Bytes of a pair beside its key and value.
const PAIR_HEADER_BYTES: usize = 8;

/// A leader's announcement: where its reign begins. Stored before anything else of its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reign {
    /// Its epoch.
    #[n(0)]
    pub epoch: Epoch,
    /// A random number of the process: two processes with the same epoch must notice each other.
    #[n(1)]
    pub instance: u64,
    /// The last record before its first.
    #[n(2)]
    pub position: Position,
    /// The digest of that.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub digest: Digest,
}

/// What a checkpoint consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the release that wrote the state.
    #[n(0)]
    pub format_version: u32,
    /// The record whose effect, with that of all before, it holds.
    #[n(1)]
    pub position: Position,
    /// The digest of that record.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub journal_digest: Digest,
    /// SHA-256 of all keys and values in order, each with its length before it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub state_digest: Digest,
    /// How many pairs.
    #[n(4)]
    pub pairs: u64,
    /// How many chunks.
    #[n(5)]
    pub chunks: u64,
}

/// Why a checkpoint was not stored or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// An object of it is damaged.
    #[error("the object {key} is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// How.
        #[source]
        source: SealedError,
    },
    /// The state failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

fn damaged(key: &str) -> impl Fn(SealedError) -> CheckpointError + '_ {
    |source| CheckpointError::Damaged {
        key: key.to_owned(),
        source,
    }
}

fn chunk_label(volume: VolumeId, checkpoint: CheckpointName, number: u64, pairs: u32) -> Label {
    Label {
        kind: Kind::Chunk,
        volume,
        first: checkpoint.position.0,
        second: number,
        count: pairs,
    }
}

fn manifest_label(volume: VolumeId, checkpoint: CheckpointName) -> Label {
    Label {
        kind: Kind::Manifest,
        volume,
        first: checkpoint.position.0,
        second: 0,
        count: 0,
    }
}

fn reign_label(volume: VolumeId, epoch: Epoch) -> Label {
    Label {
        kind: Kind::Reign,
        volume,
        first: epoch.0,
        second: 0,
        count: 0,
    }
}

impl Reign {
    /// The object.
    pub(super) fn pack(&self, volume: VolumeId) -> Result<Bytes, SealedError> {
        seal(
            &reign_label(volume, self.epoch),
            &twinshore_protocol::wire::encode(self),
        )
    }

    /// Reads the object of an epoch.
    pub(super) fn unpack(volume: VolumeId, epoch: Epoch, body: &[u8]) -> Result<Self, SealedError> {
        let content = unseal(&reign_label(volume, epoch), body)?;
        let reign: Self = twinshore_protocol::wire::decode(&content)
            .map_err(|_| SealedError::Malformed("the announcement"))?;
        if reign.epoch == epoch {
            Ok(reign)
        } else {
            Err(SealedError::Wrong)
        }
    }
}

/// The chunk that is being filled.
struct Chunk {
    content: Vec<u8>,
    pairs: u32,
    number: u64,
    state: Sha256,
    total_pairs: u64,
}

impl Chunk {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let start = self.content.len();
        for part in [key, value] {
            // Keys and values come from records, which are at most 16 MiB long.
            self.content
                .extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.content.extend_from_slice(key);
        self.content.extend_from_slice(value);
        self.state.update(&self.content[start..]);
        self.pairs += 1;
        self.total_pairs += 1;
    }

    async fn store(
        &mut self,
        bucket: &dyn Bucket,
        volume: VolumeId,
        name: CheckpointName,
    ) -> Result<(), CheckpointError> {
        let key = name.chunk_key(self.number);
        let body = seal(&chunk_label(volume, name, self.number, self.pairs), &self.content)
            .map_err(damaged(&key))?;
        bucket.put(&key, body).await?;
        self.content.clear();
        self.pairs = 0;
        self.number += 1;
        Ok(())
    }
}

/// Stores a frozen state, chunk by chunk, then its manifest.
pub(super) async fn store(
    bucket: &dyn Bucket,
    volume: VolumeId,
    name: CheckpointName,
    journal_digest: Digest,
    view: Box<dyn View + Send>,
) -> Result<Manifest, CheckpointError> {
    let mut chunk = Chunk {
        content: Vec::new(),
        pairs: 0,
        number: 0,
        state: Sha256::new(),
        total_pairs: 0,
    };
    let mut start: Vec<u8> = Vec::new();
    loop {
        let page = view.scan(&start, &END, PAGE_PAIRS)?;
        let Some((last, _)) = page.last() else { break };
        start = last.to_vec();
        start.push(0);
        for (key, value) in &page {
            chunk.push(key, value);
            if chunk.content.len() >= CHUNK_BYTES {
                chunk.store(bucket, volume, name).await?;
            }
        }
        tokio::task::yield_now().await;
    }
    // The state is not needed any more: let the store forget old versions while the rest travels.
    drop(view);
    if chunk.pairs > 0 {
        chunk.store(bucket, volume, name).await?;
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        position: name.position,
        journal_digest,
        state_digest: chunk.state.finalize().into(),
        pairs: chunk.total_pairs,
        chunks: chunk.number,
    };
    let key = name.manifest_key();
    let body = seal(
        &manifest_label(volume, name),
        &twinshore_protocol::wire::encode(&manifest),
    )
    .map_err(damaged(&key))?;
    bucket.put(&key, body).await?;
    Ok(manifest)
}

/// Reads a manifest.
pub(super) async fn read_manifest(
    bucket: &dyn Bucket,
    volume: VolumeId,
    name: CheckpointName,
) -> Result<Manifest, CheckpointError> {
    let key = name.manifest_key();
    let body = bucket.get(&key, None).await?;
    let content = unseal(&manifest_label(volume, name), &body).map_err(damaged(&key))?;
    let manifest: Manifest = twinshore_protocol::wire::decode(&content)
        .map_err(|_| damaged(&key)(SealedError::Malformed("the manifest")))?;
    if manifest.format_version > FORMAT_VERSION {
        return Err(damaged(&key)(SealedError::Malformed(
            "a newer release wrote the state: use a newer release",
        )));
    }
    if manifest.position != name.position {
        return Err(damaged(&key)(SealedError::Wrong));
    }
    Ok(manifest)
}

/// Takes the pairs of a checkpoint.
pub(super) type PairSink<'a> = dyn FnMut(&[(Bytes, Bytes)]) -> Result<(), ViewError> + Send + 'a;

/// Reads a whole checkpoint and hands out its pairs, chunk by chunk. What was handed out counts only if this succeeds: the
/// digest of the whole is verified at the end.
pub(super) async fn read(
    bucket: &dyn Bucket,
    volume: VolumeId,
    name: CheckpointName,
    sink: &mut PairSink<'_>,
) -> Result<Manifest, CheckpointError> {
    let manifest = read_manifest(bucket, volume, name).await?;
    let (mut state, mut pairs) = (Sha256::new(), 0);
    for number in 0..manifest.chunks {
        let key = name.chunk_key(number);
        let body = bucket.get(&key, None).await?;
        let content = unseal(&chunk_label(volume, name, number, 0), &body).map_err(damaged(&key))?;
        state.update(&content);
        let found = parse_pairs(content.into()).map_err(damaged(&key))?;
        pairs += found.len() as u64;
        sink(&found)?;
        tokio::task::yield_now().await;
    }
    if pairs != manifest.pairs || manifest.state_digest != <[u8; 32]>::from(state.finalize()) {
        return Err(damaged(&name.manifest_key())(SealedError::Malformed(
            "the chunks do not make up the state",
        )));
    }
    Ok(manifest)
}

fn parse_pairs(mut content: Bytes) -> Result<Vec<(Bytes, Bytes)>, SealedError> {
    let malformed = || SealedError::Malformed("a pair is cut off");
    let mut pairs = Vec::new();
    while !content.is_empty() {
        let header = content.first_chunk::<PAIR_HEADER_BYTES>().ok_or_else(malformed)?;
        let key_bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let value_bytes = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if content.len() - PAIR_HEADER_BYTES < key_bytes.saturating_add(value_bytes) {
            return Err(malformed());
        }
        let mut pair = content
            .split_to(PAIR_HEADER_BYTES + key_bytes + value_bytes)
            .split_off(PAIR_HEADER_BYTES);
        let value = pair.split_off(key_bytes);
        pairs.push((pair, value));
    }
    Ok(pairs)
}
