//! `fallocate`: reserving, punching, zeroing.

use twinshore_protocol::operation::AllocateMode;
use twinshore_protocol::{Errno, FileType, InodeNumber, Reply};

use super::attributes::written;
use crate::core::extents::FILE_MAX_BYTES;
use crate::core::transaction::{Attempt, Transaction};
use crate::core::values::{InodeRow, SourceRow};

/// How many holes are filled in one record.
const HOLES_MAX: usize = 4096;

/// How many extents are looked at before holes are filled.
const PAGE: usize = 256;

pub fn allocate(
    t: &mut Transaction<'_>,
    inode: InodeNumber,
    offset: u64,
    length: u64,
    mode: AllocateMode,
) -> Attempt<Reply> {
    if length == 0 {
        return Err(Errno::Invalid.into());
    }
    let end = offset
        .checked_add(length)
        .filter(|end| *end <= FILE_MAX_BYTES)
        .ok_or(Errno::FileTooBig)?;
    let mut row = t.inode(inode)?;
    match row.attributes.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::IsDirectory.into()),
        _ => return Err(Errno::Invalid.into()),
    }
    let before = row.attributes.allocated_bytes;
    let keep_size = match mode {
        AllocateMode::Reserve { keep_size } => {
            fill_holes(t, &mut row, offset, end)?;
            keep_size
        }
        AllocateMode::PunchHole => {
            t.replace(&mut row, offset, end, None)?;
            true
        }
        AllocateMode::Zero { keep_size } => {
            t.replace(&mut row, offset, end, Some(SourceRow::Reserved))?;
            keep_size
        }
    };
    if !keep_size {
        row.attributes.size_bytes = row.attributes.size_bytes.max(end);
    }
    t.charge_bytes(
        &row,
        row.attributes.allocated_bytes.cast_signed() - before.cast_signed(),
    )?;
    t.clear_privileges_of_writer(&mut row);
    written(t, &mut row, None);
    t.put_inode(row);
    t.attributes_changed(inode);
    Ok(Reply::Attributes(row.attributes))
}

fn fill_holes(t: &mut Transaction<'_>, row: &mut InodeRow, start: u64, end: u64) -> Attempt<()> {
    let mut holes = Vec::new();
    let mut next = start;
    'pages: loop {
        let page = t.extents_after(row, next, PAGE)?;
        let full = page.len() == PAGE;
        for extent in page {
            if extent.start >= end {
                break 'pages;
            }
            if extent.start > next {
                holes.push((next, extent.start));
            }
            next = extent.end;
            if holes.len() >= HOLES_MAX {
                for (from, to) in holes {
                    t.replace(row, from, to, Some(SourceRow::Reserved))?;
                }
                return t.leave_unfinished(*row);
            }
        }
        if !full || next >= end {
            break;
        }
    }
    if next < end {
        holes.push((next, end));
    }
    for (from, to) in holes {
        t.replace(row, from, to, Some(SourceRow::Reserved))?;
    }
    Ok(())
}
