//! Filling the kernel's buffer with directory entries.
//!
//! The kernel goes on after the offset of the last entry that it took. Two entries may share a cookie (a hash collision); if the buffer
//! ended between them, the second would never be listed. fuser does not tell how large the buffer is, only that an entry did
//! not fit, and then it is too late to take its twin out again. But a buffer is never smaller than a page, so twins are put in only where
//! they fit into what is left of the first page; otherwise the buffer ends before them and the next one begins with them.

use crate::vfs::ListedEntry;

/// The smallest buffer that the kernel sends.
const BUFFER_BYTES_MIN: usize = 4096;

/// What an entry takes besides its name.
pub const PLAIN_HEADER_BYTES: usize = 24;
/// The same with attributes.
pub const PLUS_HEADER_BYTES: usize = 152;

/// Puts entries into a buffer as long as they fit. `used_bytes` of the buffer are taken already; `add` answers true if an
/// entry did not fit. Answers how many entries were taken.
pub fn fill(
    entries: &[ListedEntry],
    used_bytes: usize,
    header_bytes: usize,
    mut add: impl FnMut(&ListedEntry) -> bool,
) -> usize {
    let size = |entry: &ListedEntry| (header_bytes + entry.name.as_bytes().len()).next_multiple_of(8);
    let mut used = used_bytes;
    let mut taken = 0;
    for group in entries.chunk_by(|one, other| one.cookie == other.cookie) {
        let group_bytes: usize = group.iter().map(size).sum();
        if group.len() > 1 && used > 0 && used + group_bytes > BUFFER_BYTES_MIN {
            return taken;
        }
        for entry in group {
            if add(entry) {
                return taken;
            }
            taken += 1;
        }
        used += group_bytes;
    }
    taken
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
