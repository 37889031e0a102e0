//! A view kept in fjall, an embedded LSM store.
//!
//! # Guarantees
//!
//! * The mutations of a record and the position that they lead to are one write batch: after a crash the store holds the
//!   effect of a prefix of the records, and [`ViewStore::applied`] says of which.
//! * No commit waits for the disk. After a loss of power the prefix may be shorter than before, but never shorter than what
//!   the last [`ViewStore::persister`] covered: the journal must not be trimmed beyond that.
//! * Memory is bounded by [`FjallOptions`]: the cache, two memtables at a time, and filters of about 10 bits per key.
//!
//! Keys that begin with a zero byte are the store's own; the keys of a volume begin with a letter.

use std::path::Path;

use bytes::Bytes;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use twinshore_protocol::Position;

use super::{Mutation, Persister, View, ViewError, ViewStore};

/// The only keyspace. With one there is one order of flushes, so that what survives a crash is a prefix.
const KEYSPACE: &str = "view";

/// Where the applied position stands.
const APPLIED_KEY: [u8; 1] = [0];

/// The first key that can belong to a volume.
const FIRST_KEY: [u8; 1] = [1];

/// How much memory and disk the store may take.
#[derive(Clone, Copy, Debug)]
pub struct FjallOptions {
    /// Decoded blocks kept in memory.
    pub cache_bytes: u64,
    /// A memtable of this size is written out. One is being filled while another is written.
    pub memtable_bytes: u64,
    /// The store's own log; at least 64 MiB (fjall's limit).
    pub log_bytes: u64,
    /// Threads that write out and merge.
    pub threads: usize,
}

impl Default for FjallOptions {
    fn default() -> Self {
        // 64 MiB of cache and two memtables: below 120 MB with all filters of a million files, far from the 400 MB that
        // the service may take.
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
            log_bytes: 128 << 20,
            threads: 2,
        }
    }
}

/// A view in a directory.
pub struct FjallView {
    database: Database,
    keyspace: Keyspace,
    applied: Position,
}

fn store_error(error: fjall::Error) -> ViewError {
    ViewError::Store(Box::new(error))
}

/// The stored position has not eight bytes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the applied position of the store is damaged: delete the directory `view`, it is rebuilt from a checkpoint"
)]
struct DamagedPosition;

/// A key that is reserved for the store.
#[derive(Debug, thiserror::Error)]
#[error("a record changes a key that begins with a zero byte")]
struct ReservedKey;

impl FjallView {
    /// Opens the view in `path`, or makes an empty one there.
    pub fn open(path: &Path, options: FjallOptions) -> Result<Self, ViewError> {
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.log_bytes.max(64 << 20))
            .worker_threads(options.threads.max(1))
            // The journal is the write-ahead log; a process that is killed replays what the store had not written yet.
            .manual_journal_persist(true)
            .open()
            .map_err(store_error)?;
        let keyspace = database
            .keyspace(KEYSPACE, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(options.memtable_bytes)
                    .manual_journal_persist(true)
                    .data_block_size_policy(BlockSizePolicy::all(4 << 10))
                    .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            })
            .map_err(store_error)?;
        let applied = match keyspace.get(APPLIED_KEY).map_err(store_error)? {
            None => Position::ZERO,
            Some(value) => {
                let bytes =
                    <[u8; 8]>::try_from(&*value).map_err(|_| ViewError::Store(Box::new(DamagedPosition)))?;
                Position(u64::from_be_bytes(bytes))
            }
        };
        Ok(Self {
            database,
            keyspace,
            applied,
        })
    }

    /// Makes what was applied durable. Blocks on the disk.
    pub fn persist(&self) -> Result<(), ViewError> {
        self.persister()()
    }

    /// Adds pairs of a checkpoint to a view that nothing was applied to. [`FjallView::finish_load`] makes them count.
    pub fn load(&mut self, pairs: &[(Bytes, Bytes)]) -> Result<(), ViewError> {
        let mut batch = self.database.batch();
        for (key, value) in pairs {
            check_key(key)?;
            batch.insert(&self.keyspace, &**key, &**value);
        }
        batch.commit().map_err(store_error)
    }

    /// Declares the loaded pairs to be the state at a position, durably.
    pub fn finish_load(&mut self, position: Position) -> Result<(), ViewError> {
        let mut batch = self.database.batch();
        batch.insert(&self.keyspace, APPLIED_KEY, position.0.to_be_bytes());
        batch.commit().map_err(store_error)?;
        self.applied = position;
        self.persist()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.keyspace.disk_space()
    }
}

fn check_key(key: &[u8]) -> Result<(), ViewError> {
    match key.first() {
        None | Some(0) => Err(ViewError::Store(Box::new(ReservedKey))),
        Some(_) => Ok(()),
    }
}

fn collect(pairs: fjall::Iter, limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
    let mut found = Vec::with_capacity(limit.min(256));
    for pair in pairs.take(limit) {
        let (key, value) = pair.into_inner().map_err(store_error)?;
        found.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
    }
    Ok(found)
}

/// The bounds of a scan without the store's own keys, or `None` if nothing is between them.
fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = start.max(&FIRST_KEY);
    (start < end).then_some((start, end))
}

impl View for FjallView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if check_key(key).is_err() {
            return Ok(None);
        }
        let value = self.keyspace.get(key).map_err(store_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        match bounds(start, end) {
            Some((start, end)) => collect(self.keyspace.range(start..end), limit),
            None => Ok(Vec::new()),
        }
    }
}

impl ViewStore for FjallView {
    fn applied(&self) -> Position {
        self.applied
    }

    fn apply(&mut self, position: Position, mutations: &[Mutation]) -> Result<(), ViewError> {
        if position != self.applied.next() {
            return Err(ViewError::OutOfOrder {
                applied: self.applied,
                offered: position,
            });
        }
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), mutations.len() + 1);
        // All entries of a batch have one sequence number, so the last mutation of a key has to win here.
        for Mutation { key, value } in last_of_each_key(mutations) {
            check_key(key)?;
            match value {
                Some(value) => batch.insert(&self.keyspace, &**key, &**value),
                None => batch.remove(&self.keyspace, &**key),
            }
        }
        batch.insert(&self.keyspace, APPLIED_KEY, position.0.to_be_bytes());
        batch.commit().map_err(store_error)?;
        self.applied = position;
        Ok(())
    }

    fn persister(&self) -> Persister {
        let database = self.database.clone();
        Box::new(move || database.persist(PersistMode::SyncData).map_err(store_error))
    }

    fn snapshot(&self) -> Result<Box<dyn View + Send>, ViewError> {
        Ok(Box::new(FjallSnapshot {
            snapshot: self.database.snapshot(),
            keyspace: self.keyspace.clone(),
        }))
    }
}

/// The mutations without those that a later one of the same key overrides, in the order of their keys.
fn last_of_each_key(mutations: &[Mutation]) -> Vec<&Mutation> {
    let mut ordered: Vec<&Mutation> = mutations.iter().collect();
    // Stable: mutations of one key stay in order, so that the last of each run is the latest.
    ordered.sort_by(|one, other| one.key.cmp(&other.key));
    let mut kept: Vec<&Mutation> = Vec::with_capacity(ordered.len());
    for mutation in ordered {
        match kept.last_mut() {
            Some(last) if last.key == mutation.key => *last = mutation,
            _ => kept.push(mutation),
        }
    }
    kept
}

/// A frozen view of one moment.
struct FjallSnapshot {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl View for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if check_key(key).is_err() {
            return Ok(None);
        }
        let value = self.snapshot.get(&self.keyspace, key).map_err(store_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        match bounds(start, end) {
            Some((start, end)) => collect(self.snapshot.range(&self.keyspace, start..end), limit),
            None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests;
