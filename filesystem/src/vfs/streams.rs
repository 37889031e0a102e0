//! Readahead: recognises sequential reading and says what to fetch ahead of it. Pure.
//!
//! A few streams per inode, because programs read several places of a file in turn. The window of a stream begins with a multiple of
//! what its reader asks for at a time, doubles while the stream goes on, and is fetched ahead in halves, so that there is always some
//! in flight. Large windows end where objects of large files do, so that each object is one request.

/// Streams remembered per inode.
const STREAMS_MAX: usize = 4;

/// The window of a stream that has just been recognised, at least.
const FIRST_WINDOW_BYTES: u64 = 256 << 10;

/// And as a multiple of the read by which it was recognised: who asks for much at a time (a MiB is the most that the kernel asks
/// for) will soon have read it.
const FIRST_WINDOW_READS: u64 = 8;

/// Where windows of more than this end: at multiples of it, as large files are cut into objects.
const GRAIN_BYTES: u64 = 4 << 20;

/// A read that lies so far before the expected offset still belongs to the stream: the kernel's reads of one program
/// arrive out of order.
const BACKWARD_TOLERANCE_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Stream {
    next: u64,
    window: u64,
    fetched_until: u64,
    used: u64,
}

/// The streams of an inode.
#[derive(Debug, Default)]
pub struct ReadStreams {
    streams: Vec<Stream>,
    uses: u64,
}

impl ReadStreams {
    /// A read of this range is made. Returns the range to fetch ahead now, if any: it begins at or after `end`.
    pub fn advance(&mut self, offset: u64, end: u64, size: u64, window_max: u64) -> Option<(u64, u64)> {
        self.uses += 1;
        let uses = self.uses;
        let found = self.streams.iter_mut().find(|stream| {
            offset <= stream.next + stream.window
                && offset + BACKWARD_TOLERANCE_BYTES >= stream.next
                && offset + stream.window >= stream.next
        });
        let Some(stream) = found else {
            if self.streams.len() == STREAMS_MAX
                && let Some(oldest) = self
                    .streams
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, stream)| stream.used)
            {
                let oldest = oldest.0;
                self.streams.swap_remove(oldest);
            }
            // A first read at the beginning of a file is probably the first of many; elsewhere it is probably random.
            let window = if offset == 0 {
                first_window(offset, end, window_max)
            } else {
                0
            };
            self.streams.push(Stream {
                next: end,
                window,
                fetched_until: end,
                used: uses,
            });
            return self
                .streams
                .last_mut()
                .and_then(|stream| Self::fetch(stream, size, window_max));
        };
        stream.used = uses;
        if end > stream.next {
            stream.next = end;
            if stream.window == 0 {
                stream.window = first_window(offset, end, window_max);
                stream.fetched_until = end;
            }
        }
        Self::fetch(stream, size, window_max)
    }

    fn fetch(stream: &mut Stream, size: u64, window_max: u64) -> Option<(u64, u64)> {
        let ahead = stream.fetched_until.saturating_sub(stream.next);
        let from = stream.fetched_until.max(stream.next);
        if stream.window == 0 || ahead > stream.window / 2 || from >= size {
            return None;
        }
        let mut to = stream.next + stream.window;
        let whole_grains = to - to % GRAIN_BYTES;
        if whole_grains > from {
            to = whole_grains;
        }
        to = to.min(size);
        if from >= to {
            return None;
        }
        stream.window = (stream.window * 2).min(window_max);
        stream.fetched_until = to;
        Some((from, to))
    }
}

fn first_window(offset: u64, end: u64, window_max: u64) -> u64 {
    ((end - offset) * FIRST_WINDOW_READS)
        .max(FIRST_WINDOW_BYTES)
        .min(window_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_without_gaps() {
        let mut streams = ReadStreams::default();
        let (mut offset, mut fetched, mut largest) = (0, 128 << 10, 0);
        while offset < 64 * MIB {
            let end = offset + (128 << 10);
            if let Some((from, to)) = streams.advance(offset, end, 64 * MIB, 16 * MIB) {
                assert_eq!(from, fetched);
                largest = largest.max(to - from);
                fetched = to;
            }
            assert!(
                fetched >= end.min(64 * MIB),
                "the window runs ahead of the reader"
            );
            offset = end;
        }
        assert_eq!(fetched, 64 * MIB);
        assert!(largest >= 8 * MIB, "{largest}");
    }

    #[test]
    fn who_reads_much_at_a_time_has_whole_objects_fetched_from_the_first_read_on() {
        let mut streams = ReadStreams::default();
        let mut fetched = MIB;
        for step in 0..256 {
            let read = step * MIB..(step + 1) * MIB;
            if let Some((from, to)) = streams.advance(read.start, read.end, 256 * MIB, 32 * MIB) {
                assert_eq!((from, to % (4 * MIB)), (fetched, 0));
                fetched = to;
            }
            let ahead = fetched - read.end;
            assert!(fetched == 256 * MIB || ahead >= 3 * MIB, "{ahead} at {step}");
        }
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut streams = ReadStreams::default();
        for step in 1..100u64 {
            let offset = (step * 7919) % 97 * 64 * MIB + 4096;
            assert_eq!(streams.advance(offset, offset + 4096, 1 << 40, 16 * MIB), None);
        }
    }

    #[test]
    fn two_readers_in_turn_each_have_a_window() {
        let mut streams = ReadStreams::default();
        let mut fetched = [0, 0];
        for step in 0..64 {
            for (reader, base) in [0, 512 * MIB].into_iter().enumerate() {
                let offset = base + step * (128 << 10);
                if let Some((from, to)) = streams.advance(offset, offset + (128 << 10), 1 << 40, 16 * MIB) {
                    fetched[reader] += to - from;
                }
            }
        }
        assert!(fetched[0] >= 8 * MIB && fetched[1] >= 8 * MIB, "{fetched:?}");
    }
}
