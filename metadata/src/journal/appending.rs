//! Appending to the last segment.
//!
//! A frame is written past the page cache, in whole blocks, with one request that returns when it is durable (`O_DIRECT` and
//! `O_DSYNC`). On blocks that were written before, that is one write with forced unit access: half the time of a write and an fdatasync (50
//! against 98 µs, ext4 on a virtual disk), and it does not queue behind what the kernel writes back for others. A file system that
//! refuses it gets a write and an fdatasync.
//!
//! # Invariants
//!
//! * Bytes of earlier frames are only ever written again with the same content: the block in which the last frame ends, in front of
//!   the next one. A device writes a sector as a whole or not at all, so a torn write leaves them as they were. (The page
//!   cache, too, writes whole pages.)
//! * Nobody writes the file through the page cache while blocks are written past it, so no page of it is dirty, and the kernel can
//!   drop those that are overtaken. Readers use the page cache and read only what is durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use rustix::fs::OFlags;
use twinshore_protocol::Position;

use super::disk::Disk;
use super::frame::FrameHeader;
use super::segment::Segment;

/// What every device and file system takes for direct writes, in memory and on disk.
const BLOCK_BYTES: usize = 4096;

/// Memory that is kept for the next frame; one large batch must not hold its memory for ever.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Why a frame may not be on the disk.
#[derive(Debug)]
pub(super) enum AppendFailure {
    /// Some of it may be there.
    Write(io::Error),
    /// It was written, but nobody knows whether it will stay.
    Sync(io::Error),
}

/// The end of the last segment.
#[derive(Debug)]
pub(super) struct Appending {
    segment: Arc<Segment>,
    /// Where the next frame goes.
    offset: u64,
    /// The file, opened for direct writes; `None` where they are refused.
    direct: Option<File>,
    /// The bytes of earlier frames in the block in which the next frame begins.
    begun: Vec<u8>,
    buffer: Vec<u8>,
}

impl Appending {
    /// Goes on at an offset of a segment.
    pub(super) fn at(segment: Arc<Segment>, offset: u64) -> io::Result<Self> {
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags((OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed())
            .open(&segment.path);
        let direct = match direct {
            Ok(file) => Some(file),
            Err(error) if is_refused(&error) => None,
            Err(error) => return Err(error),
        };
        let begun_bytes = begun_bytes(offset);
        let mut begun = vec![0; begun_bytes];
        segment
            .file()
            .read_exact_at(&mut begun, offset - begun_bytes as u64)?;
        Ok(Self {
            segment,
            offset,
            direct,
            begun,
            buffer: Vec::new(),
        })
    }

    #[cfg(test)]
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// As on a file system that refuses direct writes.
    #[cfg(test)]
    pub(super) fn refuse_direct_writes(&mut self) {
        self.direct = None;
    }

    /// Is there room for a record?
    pub(super) fn has_room(&self, record_bytes: usize) -> bool {
        self.segment.has_room(self.offset, record_bytes)
    }

    /// Writes a record's frame, durably. After a failure the end is where it was, but what stands there is not known.
    pub(super) fn append(
        &mut self,
        disk: &Disk,
        position: Position,
        record: &[u8],
    ) -> Result<(), AppendFailure> {
        let header = FrameHeader {
            record_bytes: record.len(),
            position: position.0,
        };
        let frame_bytes = header.frame_bytes();
        let content_bytes = self.begun.len() + frame_bytes;
        let blocks = aligned(&mut self.buffer, content_bytes.next_multiple_of(BLOCK_BYTES));
        let (begun, rest) = blocks.split_at_mut(self.begun.len());
        begun.copy_from_slice(&self.begun);
        let header_bytes = header.encode(self.segment.salt());
        rest[..header_bytes.len()].copy_from_slice(&header_bytes);
        let record_end = header_bytes.len() + record.len();
        rest[header_bytes.len()..record_end].copy_from_slice(record);
        rest[record_end..].fill(0);

        let written = match &self.direct {
            Some(file) => {
                let start = self.offset - self.begun.len() as u64;
                match disk.write_blocks(file, blocks, self.begun.len(), start) {
                    Err(error) if is_refused(&error) => None,
                    result => Some(result.map_err(AppendFailure::Write)),
                }
            }
            None => None,
        };
        if let Some(result) = written {
            result?;
        } else {
            self.direct = None;
            let frame = &blocks[self.begun.len()..content_bytes];
            disk.write(self.segment.file(), frame, self.offset)
                .map_err(AppendFailure::Write)?;
            disk.sync(self.segment.file()).map_err(AppendFailure::Sync)?;
        }
        self.segment.remember(position.0, self.offset);
        self.offset += frame_bytes as u64;
        let last_block = content_bytes - begun_bytes(self.offset);
        self.begun.clear();
        self.begun.extend_from_slice(&blocks[last_block..content_bytes]);
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }

    /// Makes sure that no frame begins at the end, after a write that failed without any doubt.
    pub(super) fn erase(&mut self, disk: &Disk) -> io::Result<()> {
        if let Some(file) = &self.direct {
            let block = aligned(&mut self.buffer, BLOCK_BYTES);
            block[..self.begun.len()].copy_from_slice(&self.begun);
            block[self.begun.len()..].fill(0);
            disk.write_blocks(
                file,
                block,
                self.begun.len(),
                self.offset - self.begun.len() as u64,
            )
        } else {
            self.segment.erase(disk, self.offset)
        }
    }
}

/// Bytes of the block in front of an offset.
fn begun_bytes(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default()
}

/// So many bytes of the buffer that begin at a multiple of the block size.
fn aligned(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes + BLOCK_BYTES {
        buffer.resize(bytes + BLOCK_BYTES, 0);
    }
    let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
    &mut buffer[start..start + bytes]
}

/// Does the file system have no direct writes, or not with this alignment? Nothing was written then.
fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}
