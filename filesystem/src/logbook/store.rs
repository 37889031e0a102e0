//! Records in a file that lives in memory: each is complete or not there, whenever the process that writes it is killed.
//!
//! # Layout
//!
//! | offset | what |
//! |---|---|
//! | 0 | header: magic, state, epoch and position of the service |
//! | 4096 | table of request numbers, 1024 × 8 bytes |
//! | 16384 | the class of each extent, one byte; 0 for unused |
//! | 65536 | extents of 8 MiB, each cut into slots of one size, a power of two |
//!
//! A slot begins with a head of 32 bytes: commit word, sequence, length, kind, and which part of the content still counts.
//!
//! # Why it holds
//!
//! The machine lives on, so what was written stays, in the order in which one thread wrote it. A `write` of a process that is killed may end
//! between two pages, but not within one: a slot of at most a page is written by one call; a larger one is written first and its
//! commit word after it. Replacing is writing the new record and then removing the old one: of two the younger counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

/// "Twslog" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"Twslog\0\x01");

/// Turns length and sequence into a commit word that old bytes do not have by chance.
const COMMIT: u64 = 0x9e37_79b9_7f4a_7c15;

const HEAD: usize = 32;
const PAGE: usize = 4096;
const STATE_AT: u64 = 8;
const SEEN_AT: u64 = 16;
const NUMBERS_AT: u64 = 4096;
const CLASSES_AT: u64 = 16384;
const EXTENTS_AT: u64 = 65536;
const EXTENT: u64 = 8 << 20;

/// Address space, not memory: 16 GiB.
const EXTENTS_MAX: usize = 2048;

/// Slots of 128 bytes at least, of a whole extent at most: a message of the protocol has 4 MiB at most, a write 1 MiB.
const CLASS_MIN: u8 = 7;
const CLASS_MAX: u8 = 23;

/// Memory of large slots that are all free is given back beyond so much.
const KEPT_EXTENTS: usize = 2;

/// How many requests can be under way: the table has a cell for each.
pub const NUMBERS: usize = 1024;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    offset: u64,
    class: u8,
}

/// A record that was found.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub slot: Slot,
    /// Its place in the order of writing.
    pub sequence: u64,
    /// Of which kind.
    pub kind: u8,
    /// Which part of the content counts; of no meaning for most kinds.
    pub part: (u32, u32),
    /// What was written.
    pub content: Vec<u8>,
}

/// Everything that a file holds.
#[derive(Debug)]
pub struct Contents {
    /// The records, oldest first.
    pub records: Vec<Found>,
    /// The table of numbers.
    pub numbers: Vec<u64>,
    /// Epoch and position.
    pub seen: (u64, u64),
}

#[derive(Debug, Default)]
struct Allocation {
    /// Slots that are free, by class. The youngest is used first: its memory is there.
    free: BTreeMap<u8, Vec<u64>>,
    /// The extents of a class.
    extents: BTreeMap<u8, Vec<usize>>,
    /// How many slots of a class are in use.
    live: BTreeMap<u8, usize>,
    /// The next extent that was never used, and those that were given back.
    next_extent: usize,
    free_extents: Vec<usize>,
    sequence: u64,
}

/// The file.
#[derive(Debug)]
pub struct Store {
    file: File,
    allocation: Mutex<Allocation>,
}

fn class_of(length: usize) -> Option<u8> {
    let bits = u8::try_from((length + HEAD).next_power_of_two().trailing_zeros()).ok()?;
    (bits <= CLASS_MAX).then_some(bits.max(CLASS_MIN))
}

const fn commit_word(sequence: u64, length: u32) -> u64 {
    (COMMIT ^ sequence.rotate_left(17) ^ length as u64) | 1
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(found) = bytes.get(at..at + 8) {
        word.copy_from_slice(found);
    }
    u64::from_ne_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        word.copy_from_slice(found);
    }
    u32::from_ne_bytes(word)
}

fn offset_of(extent: usize) -> u64 {
    EXTENTS_AT + extent as u64 * EXTENT
}

fn full(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, what.to_owned())
}

impl Store {
    /// An empty one, whatever the file held.
    pub fn create(file: File) -> io::Result<Self> {
        file.set_len(0)?;
        file.set_len(offset_of(EXTENTS_MAX))?;
        file.write_all_at(&MAGIC.to_ne_bytes(), 0)?;
        Ok(Self {
            file,
            allocation: Mutex::default(),
        })
    }

    /// What a predecessor has left. `None` if the file is empty, or was given up.
    pub fn open(file: File) -> io::Result<Result<(Self, Contents), File>> {
        let mut front = vec![0; usize::try_from(EXTENTS_AT).unwrap_or(PAGE)];
        if file.metadata()?.len() < offset_of(EXTENTS_MAX) {
            return Ok(Err(file));
        }
        file.read_exact_at(&mut front, 0)?;
        if word(&front, 0) != MAGIC || word(&front, 8) != 0 {
            return Ok(Err(file));
        }
        let at = |offset: u64| usize::try_from(offset).unwrap_or(0);
        let numbers = (0..NUMBERS).map(|cell| word(&front, at(NUMBERS_AT) + cell * 8));
        let mut contents = Contents {
            records: Vec::new(),
            numbers: numbers.collect(),
            seen: (word(&front, at(SEEN_AT)), word(&front, at(SEEN_AT) + 8)),
        };
        let mut allocation = Allocation::default();
        for extent in 0..EXTENTS_MAX {
            let class = front[at(CLASSES_AT) + extent];
            if !(CLASS_MIN..=CLASS_MAX).contains(&class) {
                continue;
            }
            while allocation.next_extent < extent {
                allocation.free_extents.push(allocation.next_extent);
                allocation.next_extent += 1;
            }
            allocation.next_extent = extent + 1;
            scan(&file, extent, class, &mut allocation, &mut contents.records)?;
        }
        contents.records.sort_by_key(|found| found.sequence);
        allocation.sequence = contents.records.last().map_or(0, |found| found.sequence);
        let store = Self {
            file,
            allocation: Mutex::new(allocation),
        };
        Ok(Ok((store, contents)))
    }

    fn allocation(&self) -> MutexGuard<'_, Allocation> {
        self.allocation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocate(&self, length: usize) -> io::Result<(Slot, u64)> {
        let class = class_of(length).ok_or_else(|| full("a record is too long"))?;
        let mut allocation = self.allocation();
        allocation.sequence += 1;
        let sequence = allocation.sequence;
        if let Some(offset) = allocation.free.entry(class).or_default().pop() {
            *allocation.live.entry(class).or_default() += 1;
            return Ok((Slot { offset, class }, sequence));
        }
        let extent = match allocation.free_extents.pop() {
            Some(extent) => extent,
            None if allocation.next_extent < EXTENTS_MAX => {
                allocation.next_extent += 1;
                allocation.next_extent - 1
            }
            None => return Err(full("there is no room for more records")),
        };
        self.file.write_all_at(&[class], CLASSES_AT + extent as u64)?;
        allocation.extents.entry(class).or_default().push(extent);
        *allocation.live.entry(class).or_default() += 1;
        let first = offset_of(extent);
        let size = 1_u64 << class;
        let free = allocation.free.entry(class).or_default();
        // In the order of the addresses, the lowest first.
        free.extend((1..EXTENT / size).rev().map(|slot| first + slot * size));
        Ok((Slot { offset: first, class }, sequence))
    }

    /// Writes a record that consists of two parts. When this returns, it is complete.
    pub fn put(&self, kind: u8, front: &[u8], content: &[u8]) -> io::Result<Slot> {
        let length = front.len() + content.len();
        let (slot, sequence) = self.allocate(length)?;
        let length = u32::try_from(length).map_err(|_| full("a record is too long"))?;
        let mut head = [0; HEAD];
        head[0..8].copy_from_slice(&commit_word(sequence, length).to_ne_bytes());
        head[8..16].copy_from_slice(&sequence.to_ne_bytes());
        head[16..20].copy_from_slice(&length.to_ne_bytes());
        head[20] = kind;
        head[28..32].copy_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_ne_bytes());
        if 1_usize << slot.class <= PAGE {
            let mut whole = [0; PAGE];
            let mut end = 0;
            for part in [&head, front, content] {
                whole[end..end + part.len()].copy_from_slice(part);
                end += part.len();
            }
            self.file.write_all_at(&whole[..end], slot.offset)?;
        } else {
            let body = slot.offset + HEAD as u64;
            self.file.write_all_at(&head[8..], slot.offset + 8)?;
            self.file.write_all_at(front, body)?;
            self.file.write_all_at(content, body + front.len() as u64)?;
            self.file.write_all_at(&head[..8], slot.offset)?;
        }
        Ok(slot)
    }

    /// From now on only this part of the content counts.
    pub fn set_part(&self, slot: Slot, part: (u32, u32)) -> io::Result<()> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&part.0.to_ne_bytes());
        bytes[4..].copy_from_slice(&part.1.to_ne_bytes());
        self.file.write_all_at(&bytes, slot.offset + 24)
    }

    /// Removes a record.
    pub fn remove(&self, slot: Slot) -> io::Result<()> {
        self.file.write_all_at(&[0; 8], slot.offset)?;
        let mut allocation = self.allocation();
        allocation.free.entry(slot.class).or_default().push(slot.offset);
        let live = allocation.live.entry(slot.class).or_default();
        *live = live.saturating_sub(1);
        let large = 1_u64 << slot.class > PAGE as u64;
        let extents = allocation.extents.get(&slot.class).map_or(0, Vec::len);
        if *allocation.live.entry(slot.class).or_default() > 0 || !large || extents <= KEPT_EXTENTS {
            return Ok(());
        }
        // All are free: the memory of most of them goes back to the system.
        let all = allocation.extents.remove(&slot.class).unwrap_or_default();
        allocation.free.remove(&slot.class);
        for extent in all {
            // Before its class goes: content must never lie where another class would look for a head.
            fallocate(
                &self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                offset_of(extent),
                EXTENT,
            )?;
            self.file.write_all_at(&[0], CLASSES_AT + extent as u64)?;
            allocation.free_extents.push(extent);
        }
        Ok(())
    }

    /// Sets a cell of the table of numbers.
    pub fn set_number(&self, cell: usize, value: u64) -> io::Result<()> {
        self.file
            .write_all_at(&value.to_ne_bytes(), NUMBERS_AT + (cell % NUMBERS) as u64 * 8)
    }

    /// Empties the table of numbers.
    pub fn clear_numbers(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; NUMBERS * 8], NUMBERS_AT)
    }

    /// What was seen of the service.
    pub fn set_seen(&self, epoch: u64, position: u64) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&epoch.to_ne_bytes());
        bytes[8..].copy_from_slice(&position.to_ne_bytes());
        self.file.write_all_at(&bytes, SEEN_AT)
    }

    /// Nobody must go on from here.
    pub fn give_up(&self) -> io::Result<()> {
        self.file.write_all_at(&1_u64.to_ne_bytes(), STATE_AT)
    }
}

/// Reads the slots of an extent. Where memory was never touched there is nothing.
fn scan(
    file: &File,
    extent: usize,
    class: u8,
    allocation: &mut Allocation,
    records: &mut Vec<Found>,
) -> io::Result<()> {
    let size = 1_u64 << class;
    let first = offset_of(extent);
    let mut free = Vec::new();
    let mut live = 0;
    // Small slots are read together: a call for each would take longer than the copy.
    let together = size <= PAGE as u64;
    let step = if together { 1 << 20 } else { size };
    let mut buffer = vec![0; usize::try_from(if together { step } else { HEAD as u64 }).unwrap_or(HEAD)];
    for block in 0..EXTENT / step {
        let at = first + block * step;
        file.read_exact_at(&mut buffer, at)?;
        let slots = if together { step / size } else { 1 };
        for number in 0..slots {
            let offset = at + number * size;
            let start = usize::try_from(number * size).unwrap_or(0);
            let head = &buffer[start..start + HEAD];
            let (commit, sequence, length) = (word(head, 0), word(head, 8), half(head, 16));
            let fits = u64::from(length) + HEAD as u64 <= size;
            if !fits || commit != commit_word(sequence, length) {
                free.push(offset);
                continue;
            }
            let mut content = vec![0; length as usize];
            file.read_exact_at(&mut content, offset + HEAD as u64)?;
            live += 1;
            records.push(Found {
                slot: Slot { offset, class },
                sequence,
                kind: head[20],
                part: (half(head, 24), half(head, 28)),
                content,
            });
        }
    }
    free.reverse();
    allocation.free.entry(class).or_default().extend(free);
    allocation.extents.entry(class).or_default().push(extent);
    *allocation.live.entry(class).or_default() += live;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn reopened(store: &Store) -> Contents {
        Store::open(store.file.try_clone().unwrap()).unwrap().unwrap().1
    }

    #[test]
    fn what_was_written_is_found_in_order_and_what_was_removed_is_not() {
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let first = store.put(1, b"front", b"content").unwrap();
        let large = vec![7; 1 << 20];
        store.put(2, b"x", &large).unwrap();
        let third = store.put(3, b"", &vec![1; 5000]).unwrap();
        store.remove(first).unwrap();
        store.set_part(third, (10, 20)).unwrap();
        store.set_number(1025, 9).unwrap();
        store.set_seen(3, 4).unwrap();
        let found = reopened(&store);
        let kinds: Vec<u8> = found.records.iter().map(|found| found.kind).collect();
        assert_eq!(kinds, [2, 3]);
        assert_eq!(found.records[0].content.len(), large.len() + 1);
        assert_eq!(found.records[0].part, (0, 1 << 20));
        assert_eq!(found.records[1].part, (10, 20));
        assert_eq!((found.numbers[1], found.seen), (9, (3, 4)));
        // Slots that were free are used again, by whoever goes on.
        let (successor, _) = Store::open(store.file.try_clone().unwrap()).unwrap().unwrap();
        successor.put(4, b"", b"").unwrap();
        let kinds: Vec<u8> = reopened(&successor)
            .records
            .iter()
            .map(|found| found.kind)
            .collect();
        assert_eq!(kinds, [2, 3, 4]);
    }

    #[test]
    fn a_record_without_its_commit_word_is_not_there() {
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let slot = store.put(1, b"", &vec![1; 9000]).unwrap();
        store.file.write_all_at(&[0; 8], slot.offset).unwrap();
        store.put(2, b"", b"whole").unwrap();
        let found = reopened(&store);
        assert_eq!(found.records.len(), 1);
        assert_eq!(found.records[0].content, b"whole");
    }

    #[test]
    fn an_empty_file_and_one_that_was_given_up_have_nothing_to_go_on_from() {
        assert!(Store::open(tempfile::tempfile().unwrap()).unwrap().is_err());
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        store.give_up().unwrap();
        assert!(Store::open(store.file.try_clone().unwrap()).unwrap().is_err());
    }

    #[test]
    fn the_memory_of_large_records_goes_back_when_all_are_gone() {
        use std::os::unix::fs::MetadataExt as _;
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let content = vec![1; 1 << 20];
        let slots: Vec<Slot> = (0..24).map(|_| store.put(1, b"", &content).unwrap()).collect();
        let used = store.file.metadata().unwrap().blocks();
        for slot in slots {
            store.remove(slot).unwrap();
        }
        assert!(store.file.metadata().unwrap().blocks() < used / 10);
        store.put(1, b"", &content).unwrap();
        assert_eq!(reopened(&store).records.len(), 1);
    }

    #[test]
    fn records_of_every_size_are_found() {
        let store = Store::create(tempfile::tempfile().unwrap()).unwrap();
        let sizes = (0..23).flat_map(|bits| [1_usize << bits, (1 << bits) + 1, 3 << bits >> 1]);
        let mut written = Vec::new();
        for size in sizes.filter(|size| size + HEAD <= 1 << CLASS_MAX) {
            for byte in [1, 2, 3] {
                store.put(byte, b"", &vec![byte; size]).unwrap();
                written.push((byte, size));
            }
        }
        let found = reopened(&store).records;
        let found: Vec<(u8, usize)> = found
            .iter()
            .map(|found| {
                assert!(found.content.iter().all(|byte| *byte == found.kind));
                (found.kind, found.content.len())
            })
            .collect();
        assert_eq!(found, written);
    }
}
