//! What durable metadata says, asked of the core as the service would.

use std::collections::BTreeSet;

use twinshore_metadata::core::{self, Context};
use twinshore_metadata::view::ViewStore as _;
use twinshore_metadata::view::memory::MemoryView;
use twinshore_protocol::reply::ObjectRecord;
use twinshore_protocol::{Caller, Epoch, InodeNumber, Operation, Reply, SessionId, Side, Timestamp};

/// How many objects are listed at a time.
const PAGE_OBJECTS: u32 = 1000;

/// Every object that files name.
pub fn named_objects(view: &MemoryView) -> Result<Vec<ObjectRecord>, String> {
    let nothing_open: BTreeSet<InodeNumber> = BTreeSet::new();
    let context = Context {
        now: Timestamp::default(),
        position: view.applied().next(),
        epoch: Epoch(0),
        session: SessionId(0),
        near: Side::Primary,
        caller: &Caller::ROOT,
        open: &nothing_open,
    };
    let mut named = Vec::new();
    let mut after = None;
    loop {
        let listed = core::step(
            view,
            &context,
            &Operation::ListObjects {
                after,
                limit: PAGE_OBJECTS,
            },
        );
        let Ok(Reply::Objects(page)) = listed.map_err(|error| error.to_string())?.result else {
            return Err("metadata does not list its objects".to_owned());
        };
        let Some(last) = page.last() else { return Ok(named) };
        after = Some(last.object);
        named.extend(page.into_iter().filter(|record| record.live_bytes > 0));
    }
}
