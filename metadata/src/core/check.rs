//! Does the state hold together? Every invariant that spans keys, checked from the keys alone (`twinshore fsck`, the
//! simulation, the tests of the core).
//!
//! It reads everything once and keeps in memory what it has to compare: some hundred bytes for each inode and object.

mod claims;
mod content;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use minicbor::Decode;
use twinshore_protocol::{FileName, InodeNumber, ObjectId, Position, Side};

use super::CoreError;
use super::claims::rows::HiddenRow;
use super::keys::{self};
use super::transaction::{decode, read};
use super::values::{CountersRow, InodeRow, InodeSpan, ObjectRow, SessionRow, Tally, TotalsRow};
use super::volume;
use crate::view::View;

/// A contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a kind of row and its key, readable.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// How many rows are read at a time.
const PAGE: usize = 1024;

#[derive(Default)]
struct Names {
    /// Directory and name of each entry.
    entries: BTreeSet<(InodeNumber, FileName)>,
    others: BTreeSet<(InodeNumber, FileName)>,
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
    inodes: BTreeMap<InodeNumber, InodeRow>,
    names: BTreeMap<InodeNumber, Names>,
    entries: BTreeMap<InodeNumber, (u64, u32)>,
    /// Bytes and number of the extents of each inode.
    allocated: BTreeMap<InodeNumber, (u64, u64)>,
    live: BTreeMap<ObjectId, u64>,
    /// The files that name an object.
    named_by: BTreeMap<ObjectId, InodeSpan>,
    sparse: BTreeSet<ObjectId>,
    inline: BTreeMap<(Position, InodeNumber, u64), u64>,
    objects: BTreeMap<ObjectId, ObjectRow>,
    owed: BTreeMap<(Side, ObjectId), Position>,
    dead: BTreeMap<ObjectId, Position>,
    deletions: BTreeSet<(Side, ObjectId)>,
    hidden: Option<HiddenRow>,
    totals: TotalsRow,
}

/// All contradictions of the state: none, if it is sound. An empty view is.
pub fn consistency(view: &dyn View) -> Result<Vec<Problem>, CoreError> {
    let Some(format) = volume::format(view)? else {
        return Ok(Vec::new());
    };
    let mut check = Check::default();
    check.read_inodes(view)?;
    check.read_hidden(view)?;
    check.read_names(view)?;
    check.compare_names(view)?;
    check.compare_nameless(view)?;
    check.compare_extents(view)?;
    check.compare_attributes(view)?;
    check.compare_usage(view)?;
    check.compare_trees(view)?;
    check.compare_claims(view)?;
    check.read_objects(view)?;
    check.compare_objects(format.settings.target.is_some(), volume::is_backfilling(view)?);
    check.compare_sessions(view)?;
    let stored = volume::totals(view)?;
    if stored != check.totals {
        let what = format!("stored {stored:?}, counted {:?}", check.totals);
        check.problem("totals", what);
    }
    Ok(check.problems)
}

fn for_each(
    view: &dyn View,
    prefix: u8,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<(), CoreError>,
) -> Result<(), CoreError> {
    let mut start = Bytes::copy_from_slice(&[prefix]);
    loop {
        let page = view.scan(&start, &[prefix + 1], PAGE)?;
        for (key, value) in &page {
            visit(key, value)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => start = keys::after(last),
            _ => return Ok(()),
        }
    }
}

fn row<T: for<'b> Decode<'b, ()>>(key: &[u8], value: &[u8]) -> Result<T, CoreError> {
    decode(key, value)
}

fn malformed(key: &[u8]) -> CoreError {
    super::transaction::corrupt(key, "malformed key")
}

impl Check {
    fn problem(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        self.problems.push(Problem {
            place: place.to_string(),
            what: what.into(),
        });
    }

    fn expect(&mut self, holds: bool, place: impl fmt::Display, what: impl FnOnce() -> String) {
        if !holds {
            self.problem(place, what());
        }
    }

    fn compare_sessions(&mut self, view: &dyn View) -> Result<(), CoreError> {
        let counters: Option<CountersRow> = read(view, keys::COUNTERS)?;
        let Some(counters) = counters else {
            self.problem("counters", "there are none");
            return Ok(());
        };
        if let Some(number) = self.inodes.keys().next_back().copied() {
            self.expect(number.0 < counters.next_inode, format!("inode {number}"), || {
                "it was never granted".into()
            });
        }
        for_each(view, keys::SESSION, |key, value| {
            let session: SessionRow = row(key, value)?;
            let inodes = session
                .inodes
                .iter()
                .all(|range| range.end <= counters.next_inode);
            let objects = session
                .objects
                .iter()
                .all(|range| range.numbers.end <= counters.next_object);
            self.expect(inodes && objects, format!("session {}", session.session), || {
                "it has numbers that will be granted again".into()
            });
            Ok(())
        })
    }
}

fn count(tally: &mut Tally, bytes: u64) {
    tally.count += 1;
    tally.bytes += bytes;
}
