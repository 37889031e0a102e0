//! What is worth writing anew: the search that compaction goes by.
//!
//! Two things make a volume worse with time. An object of many files, or of a file that was overwritten, keeps its bytes in both
//! buckets as long as one extent names it (*sparse*); and a file that was written in small pieces at random lies in many small
//! extents, each a request to read (*fragmented*). Rewriting the extents that are left, in the order of their files, into one new object
//! cures both: the old objects lose their last byte and die as any other.
//!
//! # How it finds them
//!
//! Sparse objects stand in `K`, fragmented files in `F`: rows that are written only when an object or a file crosses the line. There is no
//! index from an object to the files that name it, because every commit would have to pay for it. Instead an object remembers the
//! range of inode numbers that ever named it (`named_by`); files that were written together have numbers close together, so the range is
//! short, and the search reads the extents of that range. The range only grows: it may be too wide, never too narrow.
//! The reasons are in `docs/decisions/0006-compaction-without-an-index-of-files.md`.
//!
//! # Invariants
//!
//! * [`find`] changes nothing and looks at about [`Limits::rows`] rows at most. Its [`Cursor`] resumes it, whatever has changed meanwhile; a lost
//!   cursor costs a new pass and no more.
//! * What it returns are extents as they stand, all in objects. Who rewrites them exchanges each only if it still stands (`Repoint`), so a race
//!   with a writer is harmless.
//! * Rewriting a sparse object writes at most as many bytes as die with it, whatever shares its extents.

use std::collections::BTreeMap;

use twinshore_protocol::{Extent, ExtentSource, InodeNumber, ObjectId, Timestamp};

use super::CoreError;
use super::keys::{self, KeyReader};
use super::transaction::{corrupt, decode, read};
use super::values::{ExtentRow, InodeRow, InodeSpan, ObjectRow, Place, SourceRow};
use crate::view::View;

/// Extents of a fragmented file that are this long are good enough: reading one costs about as much as asking for it.
const SMALL_BYTES: u64 = 128 << 10;

/// A longer extent is left alone: whoever rewrites it holds it in memory.
const LARGEST_BYTES: u64 = 64 << 20;

/// Rows read at a time.
const PAGE: usize = 256;

/// How much one search does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows to look at, about.
    pub rows: usize,
    /// Extents to return.
    pub extents: usize,
    /// Bytes of content to return, beyond the first extent.
    pub bytes: u64,
    /// Files that were modified later are left for another time: they may be overwritten or removed soon.
    pub modified_before: Option<Timestamp>,
    /// Sparse objects with less to gain are left.
    pub least_sparse_bytes: u64,
    /// Fragmented files with fewer extents are left.
    pub least_extents: u64,
}

/// Where a search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Among the fragmented files.
    Files {
        /// In this one.
        inode: InodeNumber,
        /// At the first extent that ends after this offset.
        offset: u64,
    },
    /// Among the sparse objects.
    Objects {
        /// The object whose files are looked at. `None` before the first.
        object: Option<ObjectId>,
        /// All extents from this file on ...
        from: InodeNumber,
        /// ... up to the first extent of this file that ends after this offset have been looked at, for every sparse object.
        until: (InodeNumber, u64),
    },
}

impl Cursor {
    /// The beginning of a pass.
    pub const START: Self = Self::Files {
        inode: InodeNumber(0),
        offset: 0,
    };

    const FIRST_OBJECT: Self = Self::Objects {
        object: None,
        from: InodeNumber(0),
        until: (InodeNumber(0), 0),
    };
}

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Extents to be rewritten together, in order.
    pub extents: Vec<(InodeNumber, Extent)>,
    /// Where the pass goes on; `None` at its end.
    pub next: Option<Cursor>,
    /// Rows looked at.
    pub rows: usize,
}

/// The next extents that are worth rewriting.
pub fn find(view: &dyn View, cursor: Cursor, limits: Limits) -> Result<Found, CoreError> {
    let mut search = Search {
        view,
        limits,
        rows: 0,
        bytes: 0,
        extents: Vec::new(),
        objects: BTreeMap::new(),
        file: None,
    };
    let mut next = Some(cursor);
    while let Some(at) = next
        && !search.is_full()
    {
        next = match at {
            Cursor::Files { inode, offset } => Some(search.file(inode, offset)?),
            Cursor::Objects { object, from, until } => search.object(object, from, until)?,
        };
    }
    Ok(Found {
        extents: search.extents,
        next,
        rows: search.rows,
    })
}

struct Search<'a> {
    view: &'a dyn View,
    limits: Limits,
    rows: usize,
    bytes: u64,
    extents: Vec<(InodeNumber, Extent)>,
    objects: BTreeMap<ObjectId, Option<ObjectRow>>,
    file: Option<(InodeNumber, bool)>,
}

/// An extent in an object.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    end: u64,
    object: ObjectId,
    offset: u64,
}

impl Search<'_> {
    fn is_full(&self) -> bool {
        self.rows >= self.limits.rows
            || self.extents.len() >= self.limits.extents
            || self.bytes >= self.limits.bytes
    }

    /// Has it room for one more?
    fn has_room(&self, bytes: u64) -> bool {
        self.extents.is_empty()
            || (self.extents.len() < self.limits.extents && self.bytes + bytes <= self.limits.bytes)
    }

    /// Goes on in a fragmented file, or in the next one. Returns where to go on.
    fn file(&mut self, inode: InodeNumber, offset: u64) -> Result<Cursor, CoreError> {
        let start = keys::fragmented(inode);
        let Some((key, _)) = (self.view.scan(&start, &[keys::FRAGMENTED + 1], 1)?).pop() else {
            return Ok(Cursor::FIRST_OBJECT);
        };
        self.rows += 1;
        let found = (KeyReader::new(&key).inode()).ok_or_else(|| corrupt(&key, "malformed key"))?;
        let offset = if found == inode { offset } else { 0 };
        let next_file = Cursor::Files {
            inode: InodeNumber(found.0.saturating_add(1)),
            offset: 0,
        };
        let enough = read::<InodeRow>(self.view, &keys::inode(found))?
            .is_some_and(|row| row.extents >= self.limits.least_extents);
        if !enough || !self.may_touch(found)? {
            return Ok(next_file);
        }
        Ok(match self.runs(found, offset)? {
            Some(offset) => Cursor::Files { inode: found, offset },
            None => next_file,
        })
    }

    /// Takes runs of small extents that follow each other without a gap. Returns where to go on in the file, `None` at its end.
    fn runs(&mut self, inode: InodeNumber, begin: u64) -> Result<Option<u64>, CoreError> {
        let mut offset = begin;
        let end = keys::after_prefix(&keys::of(keys::EXTENT, inode.0));
        let mut run: Vec<Piece> = Vec::new();
        let mut run_bytes = 0;
        loop {
            let page = self
                .view
                .scan(&keys::extent(inode, offset.saturating_add(1)), &end, PAGE)?;
            let is_last = page.len() < PAGE;
            for (key, value) in page {
                self.rows += 1;
                let (_, extent_end, row) = extent(&key, &value)?;
                let start = extent_end - row.length;
                let small = match &row.source {
                    SourceRow::Object { object, offset } if row.length < SMALL_BYTES => Some(Piece {
                        start,
                        end: extent_end,
                        object: *object,
                        offset: *offset,
                    }),
                    SourceRow::Object { .. } | SourceRow::Inline { .. } | SourceRow::Reserved => None,
                };
                let follows = run.last().is_none_or(|last| last.end == start);
                if small.is_none() || !follows {
                    self.take_run(inode, &mut run)?;
                    run_bytes = 0;
                }
                if let Some(piece) = small {
                    let room = self.limits.bytes.saturating_sub(self.bytes);
                    let full = self.extents.len() + run.len() >= self.limits.extents
                        || run_bytes + row.length > room;
                    // What was taken or is in the run goes first; this one begins the next.
                    if full && !(self.extents.is_empty() && run.len() < 2) {
                        let resume = lone_start(&run, begin).unwrap_or(start);
                        self.take_run(inode, &mut run)?;
                        return Ok(Some(resume));
                    }
                    run.push(piece);
                    run_bytes += row.length;
                }
                offset = extent_end;
                if self.rows >= self.limits.rows {
                    let resume = lone_start(&run, begin).unwrap_or(offset);
                    self.take_run(inode, &mut run)?;
                    return Ok(Some(resume));
                }
            }
            if is_last {
                self.take_run(inode, &mut run)?;
                return Ok(None);
            }
        }
    }

    /// One alone is not joined with anything.
    fn take_run(&mut self, inode: InodeNumber, run: &mut Vec<Piece>) -> Result<(), CoreError> {
        if run.len() > 1 {
            for piece in run.iter() {
                self.take(inode, *piece)?;
            }
        }
        run.clear();
        Ok(())
    }

    fn take(&mut self, inode: InodeNumber, piece: Piece) -> Result<(), CoreError> {
        let Some(row) = self.known(piece.object)? else {
            return Err(corrupt(
                &keys::object(piece.object),
                "an extent names an unknown object",
            ));
        };
        self.bytes += piece.end - piece.start;
        self.extents.push((
            inode,
            Extent {
                file_offset: piece.start,
                length: piece.end - piece.start,
                source: ExtentSource::Object {
                    object: piece.object,
                    object_offset: piece.offset,
                    present: row.present,
                },
            },
        ));
        Ok(())
    }

    /// Goes on with the files of a sparse object, or with the next object. Returns where to go on, `None` at the end.
    fn object(
        &mut self,
        object: Option<ObjectId>,
        from: InodeNumber,
        until: (InodeNumber, u64),
    ) -> Result<Option<Cursor>, CoreError> {
        let start = object.map_or(bytes::Bytes::from_static(&[keys::SPARSE]), keys::sparse);
        let Some((key, _)) = (self.view.scan(&start, &[keys::SPARSE + 1], 1)?).pop() else {
            return Ok(None);
        };
        self.rows += 1;
        let id = (KeyReader::new(&key).object()).ok_or_else(|| corrupt(&key, "malformed key"))?;
        let next_object = |from, until| {
            Some(Cursor::Objects {
                object: Some(ObjectId {
                    number: id.number.saturating_add(1),
                    ..id
                }),
                from,
                until,
            })
        };
        if !self.is_worthwhile(id)? {
            return Ok(next_object(from, until));
        }
        let span = self.known(id)?.and_then(|row| row.named_by).unwrap_or(InodeSpan {
            first: InodeNumber(0),
            last: InodeNumber(u64::MAX),
        });
        // What has been looked at on the way to an object before this one need not be looked at again.
        let (from, mut until) = if from <= span.first && (span.first, 0) <= until {
            (from, until)
        } else {
            (span.first, (span.first, 0))
        };
        let end = keys::after_prefix(&keys::of(keys::EXTENT, span.last.0));
        while until.0 <= span.last {
            let page = self
                .view
                .scan(&keys::extent(until.0, until.1.saturating_add(1)), &end, PAGE)?;
            let is_last = page.len() < PAGE;
            for (key, value) in page {
                self.rows += 1;
                let (inode, extent_end, row) = extent(&key, &value)?;
                if let SourceRow::Object { object, offset } = row.source
                    && row.length <= LARGEST_BYTES
                    && self.is_worthwhile(object)?
                    && self.may_touch(inode)?
                {
                    if !self.has_room(row.length) {
                        let object = Some(id);
                        return Ok(Some(Cursor::Objects { object, from, until }));
                    }
                    let start = extent_end - row.length;
                    self.take(
                        inode,
                        Piece {
                            start,
                            end: extent_end,
                            object,
                            offset,
                        },
                    )?;
                }
                until = (inode, extent_end);
                if self.is_full() {
                    let object = Some(id);
                    return Ok(Some(Cursor::Objects { object, from, until }));
                }
            }
            if is_last {
                until = until.max((InodeNumber(span.last.0.saturating_add(1)), 0));
                break;
            }
        }
        Ok(next_object(from, until))
    }

    fn known(&mut self, id: ObjectId) -> Result<Option<ObjectRow>, CoreError> {
        if let Some(row) = self.objects.get(&id) {
            return Ok(*row);
        }
        let row = read::<ObjectRow>(self.view, &keys::object(id))?;
        self.objects.insert(id, row);
        Ok(row)
    }

    fn is_worthwhile(&mut self, id: ObjectId) -> Result<bool, CoreError> {
        let least = self.limits.least_sparse_bytes.max(1);
        Ok(self.known(id)?.is_some_and(|row| row.sparse_bytes() >= least))
    }

    /// Is the file there, whole, and old enough?
    fn may_touch(&mut self, inode: InodeNumber) -> Result<bool, CoreError> {
        if let Some((known, may)) = self.file
            && known == inode
        {
            return Ok(may);
        }
        let before = self.limits.modified_before;
        let may = read::<InodeRow>(self.view, &keys::inode(inode))?.is_some_and(|row| {
            row.place != Place::Orphan { cleaning: true }
                && before.is_none_or(|before| row.attributes.modified <= before)
        });
        self.file = Some((inode, may));
        Ok(may)
    }
}

/// A run of one is begun anew by the next search, unless this one began with it: it has to get on.
fn lone_start(run: &[Piece], begin: u64) -> Option<u64> {
    match run {
        [alone] if alone.start > begin => Some(alone.start),
        _ => None,
    }
}

fn extent(key: &[u8], value: &[u8]) -> Result<(InodeNumber, u64, ExtentRow), CoreError> {
    let mut reader = KeyReader::new(key);
    let (Some(inode), Some(end)) = (reader.inode(), reader.number()) else {
        return Err(corrupt(key, "malformed key"));
    };
    let row: ExtentRow = decode(key, value)?;
    if row.length == 0 || row.length > end {
        return Err(corrupt(key, "malformed extent"));
    }
    Ok((inode, end, row))
}
