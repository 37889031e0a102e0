//! A service, two buckets that can fail, and mounts.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use twinshore_protocol::message::{Invalidation, Role, SessionDescription};
use twinshore_protocol::session::SessionOptions;
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber, ObjectId, Side, Timestamp};
use twinshore_storage::bucket::{Bucket, BucketError, Listed};
use twinshore_storage::memory::MemoryBucket;
use twinshore_storage::object::BLOCK_BYTES;
use twinshore_storage::pair::{BucketPair, PairOptions};

use super::service::Service;
use crate::vfs::{
    BlockCache, BlockRun, Handle, KernelInvalidator, OpenFlags, Origin, Surroundings, TaskRunner, Vfs,
    VfsOptions,
};

/// A bucket that can be switched off.
#[derive(Clone)]
pub struct Shore {
    pub bucket: MemoryBucket,
    pub down: Arc<AtomicBool>,
    pub puts: Arc<AtomicUsize>,
    pub gets: Arc<AtomicUsize>,
    pub put_takes: Arc<Mutex<Duration>>,
}

impl Shore {
    fn new() -> Self {
        Self {
            bucket: MemoryBucket::new(),
            down: Arc::default(),
            puts: Arc::default(),
            gets: Arc::default(),
            put_takes: Arc::default(),
        }
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    fn check(&self) -> Result<(), BucketError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(BucketError::Unavailable {
                what: "switched off".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Bucket for Shore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), BucketError> {
        let takes = *self.put_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.check()?;
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.bucket.put(key, body).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.check()?;
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.bucket.get(key, range).await
    }
    async fn size(&self, key: &str) -> Result<u64, BucketError> {
        self.check()?;
        self.bucket.size(key).await
    }
    async fn delete(&self, keys: &[String]) -> Result<(), BucketError> {
        self.check()?;
        self.bucket.delete(keys).await
    }
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BucketError> {
        self.check()?;
        self.bucket.list(prefix, after, limit).await
    }
}

/// Blocks in a map.
#[derive(Default)]
pub struct Blocks {
    pub map: Mutex<HashMap<(ObjectId, u64), Bytes>>,
}

#[async_trait]
impl BlockCache for Blocks {
    fn peek(&self, object: ObjectId, block: u64) -> Option<Bytes> {
        self.map.lock().unwrap().get(&(object, block)).cloned()
    }
    async fn get(&self, object: ObjectId, blocks: Range<u64>) -> Vec<BlockRun> {
        let run = |first_block| {
            let content = self.peek(object, first_block)?;
            Some(BlockRun { first_block, content })
        };
        blocks.filter_map(run).collect()
    }
    fn insert(&self, object: ObjectId, run: BlockRun, _: Origin) {
        let mut map = self.map.lock().unwrap();
        for (block, content) in (run.first_block..).zip(run.content.chunks(BLOCK_BYTES)) {
            map.insert((object, block), Bytes::copy_from_slice(content));
        }
    }
}

/// Writes down what it is to drop.
#[derive(Default)]
pub struct Kernel {
    pub dropped: Mutex<Vec<Invalidation>>,
    pub everything: AtomicUsize,
}

impl KernelInvalidator for Kernel {
    fn invalidate(&self, items: Vec<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        self.dropped.lock().unwrap().extend(items);
        done();
    }
    fn drop_everything(&self) {
        self.everything.fetch_add(1, Ordering::SeqCst);
    }
    fn when_dropped(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }
}

struct NoTasks;
impl TaskRunner for NoTasks {}

pub struct World {
    pub service: Arc<Service>,
    pub shores: [Shore; 2],
}

pub struct Mount {
    pub vfs: Vfs,
    pub kernel: Arc<Kernel>,
    pub blocks: Arc<Blocks>,
}

pub const WRITE: OpenFlags = OpenFlags {
    write: true,
    append: false,
    truncate: false,
    direct: false,
    synchronous: false,
};

pub fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            service: Service::new(),
            shores: [Shore::new(), Shore::new()],
        };
        world.service.state.lock().unwrap().bucket_keys =
            world.shores.iter().map(|shore| shore.bucket.clone()).collect();
        world
    }

    pub fn options() -> VfsOptions {
        let start = tokio::time::Instant::now();
        let clock = move || Timestamp::since_epoch(Duration::from_secs(2_000_000) + start.elapsed());
        VfsOptions::new(Arc::new(clock))
    }

    pub async fn mount(&self, near: Side) -> Mount {
        self.mount_with(near, Self::options()).await
    }

    pub async fn mount_with(&self, near: Side, options: VfsOptions) -> Mount {
        let [primary, target] = self.shores.clone();
        let session = SessionOptions {
            volume: None,
            role: Role::Client,
            near,
            task_slots: 0,
            description: SessionDescription {
                host: "test".to_owned(),
                process: 1,
                purpose: "test".to_owned(),
                node: None,
            },
            request_deadline: Duration::from_secs(30),
        };
        let (kernel, blocks) = (Arc::new(Kernel::default()), Arc::new(Blocks::default()));
        let surroundings = Surroundings {
            buckets: BucketPair::new(
                near,
                Some(Arc::new(primary)),
                Some(Arc::new(target)),
                PairOptions::default(),
            ),
            blocks: blocks.clone(),
            kernel: kernel.clone(),
            tasks: Arc::new(NoTasks),
        };
        let vfs = Vfs::connect(self.service.transport(), session, surroundings, options)
            .await
            .unwrap();
        until(|| vfs.session().lease_is_valid()).await;
        Mount { vfs, kernel, blocks }
    }
}

impl Mount {
    pub async fn create(&self, file: &str) -> (InodeNumber, Handle) {
        let made = self
            .vfs
            .create(
                Caller::ROOT,
                InodeNumber::ROOT,
                name(file),
                0o644,
                0,
                false,
                WRITE,
            )
            .await
            .unwrap();
        (made.0.attributes.inode, made.1.handle)
    }

    pub async fn write(&self, file: (InodeNumber, Handle), offset: u64, data: &[u8]) {
        let length = self
            .vfs
            .write(Caller::ROOT, file.0, file.1, offset, Bytes::copy_from_slice(data))
            .await
            .unwrap();
        assert_eq!(length as usize, data.len());
    }

    pub async fn read(&self, file: (InodeNumber, Handle), offset: u64, size: usize) -> Bytes {
        self.try_read(file, offset, size).await.unwrap()
    }

    pub async fn try_read(
        &self,
        file: (InodeNumber, Handle),
        offset: u64,
        size: usize,
    ) -> Result<Bytes, Errno> {
        self.vfs
            .read(Caller::ROOT, file.0, file.1, offset, size as u32)
            .await
    }

    pub async fn flush(&self, file: (InodeNumber, Handle)) -> Result<(), Errno> {
        match self.vfs.try_flush(file.0, file.1, 0) {
            Some(answer) => answer,
            None => self.vfs.flush(Caller::ROOT, file.0, file.1, 0).await,
        }
    }

    pub async fn open(&self, file: &str) -> (InodeNumber, Handle) {
        let found = self
            .vfs
            .lookup(Caller::ROOT, InodeNumber::ROOT, name(file))
            .await
            .unwrap();
        let crate::vfs::Found::Entry(found) = found else {
            panic!("{file} is not there")
        };
        let inode = found.attributes.inode;
        (
            inode,
            self.vfs.open(Caller::ROOT, inode, WRITE).await.unwrap().handle,
        )
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(5);
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the condition was not met in time"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
