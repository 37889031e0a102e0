//! The extents of one inode as far as they are known under a lease. Pure.
//!
//! What is known is a set of ranges; within it, what no extent covers is a hole. Outside of it nothing may be concluded.

use std::collections::BTreeMap;

use twinshore_protocol::{Extent, ExtentSource};

/// A cache is emptied rather than grown beyond this: it bounds the memory of a very fragmented file.
const EXTENTS_MAX: usize = 1 << 16;

/// The extents and the ranges in which they are complete.
#[derive(Debug, Default)]
pub struct ExtentCache {
    extents: BTreeMap<u64, Extent>,
    /// Start and end of each range; neither overlapping nor touching.
    known: BTreeMap<u64, u64>,
    inline_bytes: u64,
}

impl ExtentCache {
    /// Of a file that has just been made, or lost all its content: it is one hole, whatever its size.
    pub fn empty_file() -> Self {
        Self {
            known: BTreeMap::from([(0, u64::MAX)]),
            ..Self::default()
        }
    }

    /// How much memory it takes, in units of about 256 bytes.
    pub fn weight(&self) -> u64 {
        self.extents.len() as u64 / 2 + self.inline_bytes / 256
    }

    /// Is everything in the range known?
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start >= end
            || self
                .known
                .range(..=start)
                .next_back()
                .is_some_and(|(_, known_end)| *known_end >= end)
    }

    /// The first part of the range that is not known.
    pub fn first_unknown(&self, start: u64, end: u64) -> Option<u64> {
        let from = match self.known.range(..=start).next_back() {
            Some((_, known_end)) if *known_end > start => *known_end,
            _ => start,
        };
        (from < end).then_some(from)
    }

    /// The extents in the range, clipped to it, in order.
    pub fn slice(&self, start: u64, end: u64) -> Vec<Extent> {
        let first = self
            .extents
            .range(..=start)
            .next_back()
            .map_or(start, |(offset, _)| *offset);
        self.extents
            .range(first..end)
            .filter_map(|(_, extent)| extent.clipped(start, end))
            .collect()
    }

    /// The range is known now: these extents, and holes between them.
    pub fn learn(&mut self, start: u64, end: u64, extents: &[Extent]) {
        if start >= end {
            return;
        }
        if self.extents.len() + extents.len() > EXTENTS_MAX {
            *self = Self::default();
        }
        self.cut(start, end);
        for extent in extents.iter().filter_map(|extent| extent.clipped(start, end)) {
            self.insert(extent);
        }
        self.mark_known(start, end);
    }

    /// The range has this content now.
    pub fn write(&mut self, file_offset: u64, length: u64, source: ExtentSource) {
        if length > 0 {
            self.learn(
                file_offset,
                file_offset + length,
                &[Extent {
                    file_offset,
                    length,
                    source,
                }],
            );
        }
    }

    /// The file was cut to, or extended by a hole to, this size.
    pub fn truncate(&mut self, size: u64) {
        self.cut(size, u64::MAX);
    }

    fn insert(&mut self, extent: Extent) {
        if let ExtentSource::Inline(bytes) = &extent.source {
            self.inline_bytes += bytes.len() as u64;
        }
        self.extents.insert(extent.file_offset, extent);
    }

    fn remove(&mut self, offset: u64) -> Option<Extent> {
        let extent = self.extents.remove(&offset)?;
        if let ExtentSource::Inline(bytes) = &extent.source {
            self.inline_bytes -= bytes.len() as u64;
        }
        Some(extent)
    }

    /// Removes the extents of a range; those that reach beyond it keep their other parts.
    fn cut(&mut self, start: u64, end: u64) {
        let first = self
            .extents
            .range(..=start)
            .next_back()
            .map_or(start, |(offset, _)| *offset);
        let touched: Vec<u64> = self
            .extents
            .range(first..end)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in touched {
            let Some(extent) = self.remove(offset) else {
                continue;
            };
            for part in [extent.clipped(0, start), extent.clipped(end, u64::MAX)]
                .into_iter()
                .flatten()
            {
                self.insert(part);
            }
        }
    }

    fn mark_known(&mut self, mut start: u64, mut end: u64) {
        while let Some((&from, &to)) = self.known.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.known.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.known.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation
    )]

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn inline(offset: u64, bytes: &[u8]) -> Extent {
        Extent {
            file_offset: offset,
            length: bytes.len() as u64,
            source: ExtentSource::Inline(Bytes::copy_from_slice(bytes)),
        }
    }

    #[test]
    fn only_what_was_learnt_is_known() {
        let mut cache = ExtentCache::default();
        assert!(!cache.covers(0, 1));
        cache.learn(10, 20, &[inline(12, b"abc")]);
        assert!(cache.covers(10, 20) && !cache.covers(9, 20) && !cache.covers(10, 21));
        assert_eq!(cache.first_unknown(10, 30), Some(20));
        assert_eq!(cache.first_unknown(0, 30), Some(0));
        assert_eq!(cache.first_unknown(12, 20), None);
        cache.learn(20, 30, &[]);
        assert!(cache.covers(10, 30));
        assert_eq!(cache.slice(13, 30), [inline(13, b"bc")]);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_array_holds(steps in prop::collection::vec((0u64..64, 1u64..32, any::<u8>()), 1..60)) {
            let mut cache = ExtentCache::empty_file();
            let mut model = vec![0u8; 128];
            for (step, (offset, length, value)) in steps.into_iter().enumerate() {
                if step % 7 == 6 {
                    cache.truncate(offset);
                    model[offset as usize..].fill(0);
                } else {
                    let bytes = vec![value; length as usize];
                    cache.write(offset, length, ExtentSource::Inline(bytes.clone().into()));
                    model[offset as usize..(offset + length) as usize].copy_from_slice(&bytes);
                }
                let mut read = vec![0u8; 128];
                let mut previous_end = 0;
                for extent in cache.slice(0, 128) {
                    prop_assert!(extent.file_offset >= previous_end && extent.length > 0);
                    previous_end = extent.end();
                    let ExtentSource::Inline(bytes) = &extent.source else { panic!("only inline extents were written") };
                    read[extent.file_offset as usize..extent.end() as usize].copy_from_slice(bytes);
                }
                prop_assert_eq!(&read, &model);
                let inline_bytes: u64 = cache.extents.values().map(|extent| extent.length).sum();
                prop_assert_eq!(cache.inline_bytes, inline_bytes);
            }
        }
    }
}
