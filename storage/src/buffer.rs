//! Large buffers that are used again.
//!
//! Memory that the operating system gives is mapped page by page at the first touch: on virtual machines up to a millisecond for a MiB,
//! several times what it costs to fill it. Allocators give large blocks back when they are freed, so whoever streams objects of 4 MiB
//! through fresh buffers pays that for every byte. Here a few are kept between uses.
//!
//! # Guarantees
//!
//! * A new buffer is empty: what it held before cannot be seen.
//! * Idle buffers together are bounded ([`IDLE_BYTES_MAX`]); what is beyond is given back to the allocator.
//! * A buffer has little more room than was asked for, so that counting lengths counts memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Smaller buffers are the allocator's business: it keeps those itself.
const POOLED_BYTES_MIN: usize = 256 << 10;

/// Larger ones are rare.
const POOLED_BYTES_MAX: usize = 32 << 20;

/// Capacities are multiples of this, so that objects of about the same size share buffers. Below the surplus that
/// [`Pool::take`] tolerates.
const GRAIN_BYTES: usize = 64 << 10;

/// Bytes of idle buffers at most: as many objects as are fetched or stored at a time.
const IDLE_BYTES_MAX: usize = 64 << 20;

static POOL: Pool = Pool::new(IDLE_BYTES_MAX);

struct Pool {
    idle: Mutex<Idle>,
    idle_bytes_max: usize,
}

struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pool {
    const fn new(idle_bytes_max: usize) -> Self {
        Self {
            idle: Mutex::new(Idle {
                buffers: Vec::new(),
                bytes: 0,
            }),
            idle_bytes_max,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle buffer that was used last, of those with enough room and at most an eighth too much.
    fn take(&self, capacity: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| {
            (capacity..=capacity + capacity / 8 + GRAIN_BYTES).contains(&buffer.capacity())
        };
        let mut idle = self.idle();
        if let Some(found) = idle.buffers.iter().rposition(fits) {
            let buffer = idle.buffers.remove(found);
            idle.bytes -= buffer.capacity();
            return buffer;
        }
        drop(idle);
        Vec::with_capacity(capacity.next_multiple_of(GRAIN_BYTES))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        if capacity > self.idle_bytes_max {
            return;
        }
        let mut idle = self.idle();
        // The oldest give way: what is used now is of another size.
        let mut kept = idle.bytes + capacity;
        let surplus = idle
            .buffers
            .iter()
            .take_while(|oldest| {
                let is_too_much = kept > self.idle_bytes_max;
                if is_too_much {
                    kept -= oldest.capacity();
                }
                is_too_much
            })
            .count();
        let freed: Vec<Vec<u8>> = idle.buffers.drain(..surplus).collect();
        idle.bytes = kept;
        idle.buffers.push(buffer);
        drop(idle);
        drop(freed);
    }
}

/// A growing buffer: a `Vec` whose memory is used again if it is large.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Option<&'static Pool>,
}

impl Buffer {
    /// An empty buffer with room for so many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::from_pool(&POOL, capacity)
    }

    /// A copy.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    fn from_pool(pool: &'static Pool, capacity: usize) -> Self {
        if (POOLED_BYTES_MIN..=POOLED_BYTES_MAX).contains(&capacity) {
            Self {
                bytes: pool.take(capacity),
                pool: Some(pool),
            }
        } else {
            Self {
                bytes: Vec::with_capacity(capacity),
                pool: None,
            }
        }
    }

    /// Makes room for so many bytes in all; what is there moves to a larger buffer.
    pub fn grow_to(&mut self, capacity: usize) {
        if capacity > self.bytes.capacity() {
            let mut larger = Self::from_pool(self.pool.unwrap_or(&POOL), capacity);
            larger.extend_from_slice(&self.bytes);
            *self = larger;
        }
    }

    /// The bytes, shared and unchangeable from now on. The buffer is used again when the last of them is dropped.
    pub fn freeze(mut self) -> Bytes {
        if self.pool.is_some() {
            Bytes::from_owner(self)
        } else {
            std::mem::take(&mut self.bytes).into()
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("length", &self.bytes.len())
            .field("capacity", &self.bytes.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A pool of the test's own.
    fn pool(idle_bytes_max: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::new(idle_bytes_max)))
    }

    #[test]
    fn a_large_buffer_is_used_again_and_is_empty_then() {
        let pool = pool(8 * MIB);
        let mut first = Buffer::from_pool(pool, MIB);
        first.extend_from_slice(&vec![7; MIB]);
        let place = first.as_ptr();
        let shared = first.freeze();
        let part = shared.slice(10..20);
        drop(shared);
        assert_eq!(pool.idle().buffers.len(), 0, "a slice still needs it");
        drop(part);
        let second = Buffer::from_pool(pool, MIB - 1000);
        assert_eq!((second.as_ptr(), second.len()), (place, 0));
    }

    #[test]
    fn a_buffer_of_quite_another_size_is_not_used() {
        let pool = pool(64 * MIB);
        drop(Buffer::from_pool(pool, 4 * MIB));
        let small = Buffer::from_pool(pool, MIB);
        assert!(small.capacity() <= MIB + GRAIN_BYTES);
        assert!(Buffer::from_pool(pool, 5 * MIB).capacity() >= 5 * MIB);
        assert_eq!(pool.idle().buffers.len(), 2);
    }

    #[test]
    fn idle_buffers_are_bounded_and_the_oldest_go_first() {
        let pool = pool(4 * MIB);
        let buffers: Vec<Buffer> = (0..9).map(|_| Buffer::from_pool(pool, MIB)).collect();
        let last = buffers.last().map(|buffer| buffer.as_ptr());
        drop(buffers);
        let idle = pool.idle();
        let held: usize = idle.buffers.iter().map(Vec::capacity).sum();
        assert_eq!((idle.bytes, idle.buffers.len()), (held, 4));
        assert!(idle.bytes <= 4 * MIB);
        assert_eq!(idle.buffers.last().map(Vec::as_ptr), last);
    }

    #[test]
    fn growing_keeps_the_bytes_and_small_buffers_are_left_to_the_allocator() {
        let mut buffer = Buffer::copy_from(b"content");
        buffer.grow_to(MIB);
        assert!(buffer.capacity() >= MIB);
        assert_eq!(buffer.freeze(), b"content"[..]);
        let pool = pool(MIB);
        drop(Buffer::from_pool(pool, 1000));
        assert_eq!(pool.idle().buffers.len(), 0);
    }
}
