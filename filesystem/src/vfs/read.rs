//! Reading: unwritten bytes over extents over holes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;
use twinshore_protocol::{Caller, Errno, Extent, ExtentSource, InodeNumber, Operation, Reply};
use twinshore_storage::buffer::Buffer;

use super::Vfs;
use super::core::{Core, unexpected};
use super::fetch::FetchFailure;
use super::inode::{Inode, InodeState};
use super::interface::Handle;

/// How far beyond a read extents are asked for: a sequential reader then asks once per so many bytes.
const EXTENTS_AHEAD_BYTES: u64 = 256 << 20;

/// How often extents are asked for under a lease. If they are recalled as fast as they come, one answer has to do.
const LEASED_ATTEMPTS: usize = 8;

/// Answers needed at most for one range of a file: each covers many extents.
const ANSWERS_MAX: usize = 4096;

/// What a read will return, at one moment.
struct Plan {
    start: u64,
    end: u64,
    size: u64,
    extents: Vec<Extent>,
    overlay: Vec<(u64, Bytes)>,
}

enum Snapshot {
    Known(Plan),
    /// Extents from here on have to be asked for.
    Unknown(u64),
}

impl Plan {
    fn new(
        state: &InodeState,
        size: u64,
        start: u64,
        wanted: u64,
        extents: impl FnOnce(u64) -> Vec<Extent>,
    ) -> Self {
        let end = start.saturating_add(wanted).min(size).max(start);
        Self {
            start,
            end,
            size,
            extents: extents(end),
            overlay: state.dirty.overlay(start, end),
        }
    }
}

impl Vfs {
    /// Reads, if everything is in memory.
    pub fn cached_read(&self, inode: InodeNumber, handle: Handle, offset: u64, size: u32) -> Option<Bytes> {
        let _ = inode;
        let core = &self.core;
        let (inode, _) = core.file(handle).ok()?;
        let Some(Snapshot::Known(plan)) = core.leased_snapshot(&inode, offset, u64::from(size)) else {
            return None;
        };
        let bytes = core.assemble_cached(&plan)?;
        core.read_ahead(&inode, &plan);
        Some(bytes)
    }

    /// Reads. Shorter than asked for only at the end of the file.
    pub async fn read(
        &self,
        caller: Caller,
        inode: InodeNumber,
        handle: Handle,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, Errno> {
        let _ = inode;
        let core = &self.core;
        let (inode, flags) = core.file(handle)?;
        let read = async {
            if flags.direct {
                core.write_out(&inode, super::write_out::Urgency::Flush).await;
            }
            core.read_range(&caller, &inode, offset, u64::from(size)).await
        };
        timeout(core.options.read_limit, read)
            .await
            .unwrap_or(Err(Errno::InputOutput))
    }
}

impl Core {
    async fn read_range(
        self: &Arc<Self>,
        caller: &Caller,
        inode: &Arc<Inode>,
        offset: u64,
        wanted: u64,
    ) -> Result<Bytes, Errno> {
        let mut asked_again = false;
        loop {
            let plan = self.plan(caller, inode, offset, wanted).await?;
            self.read_ahead(inode, &plan);
            match self.assemble(&plan).await {
                Ok(bytes) => return Ok(bytes),
                // Extents move when data is packed or compacted, and the old object goes after a while. What was lost
                // may be elsewhere: ask once.
                Err(FetchFailure::Lost) if !asked_again => {
                    asked_again = true;
                    inode.state().drop_content();
                }
                Err(failure) => return Err(failure.errno()),
            }
        }
    }

    async fn plan(
        self: &Arc<Self>,
        caller: &Caller,
        inode: &Arc<Inode>,
        offset: u64,
        wanted: u64,
    ) -> Result<Plan, Errno> {
        for _ in 0..LEASED_ATTEMPTS {
            match self.leased_snapshot(inode, offset, wanted) {
                Some(Snapshot::Known(plan)) => return Ok(plan),
                Some(Snapshot::Unknown(from)) => {
                    let length = offset.saturating_add(wanted).saturating_add(EXTENTS_AHEAD_BYTES) - from;
                    self.ask_extents(caller, inode, from, length).await?;
                }
                None => break,
            }
        }
        self.unleased_plan(caller, inode, offset, wanted).await
    }

    /// What is known under a valid lease. `None` without one.
    fn leased_snapshot(&self, inode: &Inode, offset: u64, wanted: u64) -> Option<Snapshot> {
        if !self.session.lease_is_valid() {
            return None;
        }
        let state = inode.state();
        let Some(attributes) = state.seen_attributes() else {
            return Some(Snapshot::Unknown(offset));
        };
        let end = offset.saturating_add(wanted).min(attributes.size_bytes);
        if let Some(from) = state.extents.first_unknown(offset, end) {
            return Some(Snapshot::Unknown(from));
        }
        let extents = |end| state.extents.slice(offset, end);
        Some(Snapshot::Known(Plan::new(
            &state,
            attributes.size_bytes,
            offset,
            wanted,
            extents,
        )))
    }

    async fn ask_extents(
        &self,
        caller: &Caller,
        inode: &Inode,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<Extent>, u64, u64), Errno> {
        let operation = Operation::GetExtents {
            inode: inode.number,
            offset,
            length: length.max(1),
        };
        match self.ask(caller.clone(), operation).await? {
            Reply::Extents {
                extents,
                covered_until,
                attributes,
            } => Ok((extents, covered_until, attributes.size_bytes)),
            other => Err(unexpected(&other)),
        }
    }

    /// Without a lease an answer is good for the read that asked, and for nothing else.
    async fn unleased_plan(
        &self,
        caller: &Caller,
        inode: &Inode,
        offset: u64,
        wanted: u64,
    ) -> Result<Plan, Errno> {
        let mut extents = Vec::new();
        let mut from = offset;
        for _ in 0..ANSWERS_MAX {
            let end = offset.saturating_add(wanted);
            let (more, covered_until, size) = self.ask_extents(caller, inode, from, end - from).await?;
            extents.extend(more);
            if covered_until >= end.min(size) {
                let state = inode.state();
                let size = size.max(state.dirty.end());
                let clip = |end| {
                    extents
                        .iter()
                        .filter_map(|extent| extent.clipped(offset, end))
                        .collect()
                };
                return Ok(Plan::new(&state, size, offset, wanted, clip));
            }
            if covered_until <= from {
                tracing::error!(inode = %inode.number, "the metadata service answered no extents: check its version");
                return Err(Errno::InputOutput);
            }
            from = covered_until;
        }
        Err(Errno::InputOutput)
    }

    async fn assemble(self: &Arc<Self>, plan: &Plan) -> Result<Bytes, FetchFailure> {
        // All are asked for before the first is waited for.
        let mut pending = Vec::new();
        for extent in &plan.extents {
            if let ExtentSource::Object {
                object,
                object_offset,
                present,
            } = extent.source
            {
                let content = object_offset..object_offset + extent.length;
                pending.push((extent.file_offset, self.request_content(object, present, content)));
            }
        }
        let mut parts = Vec::new();
        for (file_offset, pending) in pending {
            let mut at = file_offset;
            pending
                .resolve(|bytes| {
                    let next = at + bytes.len() as u64;
                    parts.push((at, bytes));
                    at = next;
                })
                .await?;
        }
        Ok(join(plan, parts))
    }

    fn assemble_cached(&self, plan: &Plan) -> Option<Bytes> {
        let mut parts = Vec::new();
        for extent in &plan.extents {
            if let ExtentSource::Object {
                object,
                object_offset,
                ..
            } = extent.source
            {
                let mut at = extent.file_offset;
                for bytes in self.peek_content(object, &(object_offset..object_offset + extent.length))? {
                    let next = at + bytes.len() as u64;
                    parts.push((at, bytes));
                    at = next;
                }
            }
        }
        Some(join(plan, parts))
    }

    /// Has what a sequential reader will ask for next fetched, within the budget.
    fn read_ahead(self: &Arc<Self>, inode: &Arc<Inode>, plan: &Plan) {
        let (from, to, known) = {
            let mut state = inode.state();
            let ahead = state
                .streams
                .advance(plan.start, plan.end, plan.size, self.options.readahead_bytes);
            let Some((from, to)) = ahead else { return };
            (from, to, state.extents.covers(from, to))
        };
        if known && inode.state().extents.slice(from, to).is_empty() {
            return;
        }
        let core = Arc::clone(self);
        let inode = Arc::clone(inode);
        self.runtime.spawn(async move {
            // What is not known by now was not covered by the last answer. A failure is told to whoever reads there.
            if !known
                && core
                    .ask_extents(&Caller::ROOT, &inode, from, to - from + EXTENTS_AHEAD_BYTES)
                    .await
                    .is_err()
            {
                return;
            }
            let extents = inode.state().extents.slice(from, to);
            core.fetch_ahead(extents).await;
        });
    }

    async fn fetch_ahead(self: &Arc<Self>, extents: Vec<Extent>) {
        let mut pending = Vec::new();
        let mut taken = 0;
        for extent in extents {
            let ExtentSource::Object {
                object,
                object_offset,
                present,
            } = extent.source
            else {
                continue;
            };
            if !self.fetches.readahead.try_take(extent.length) {
                break;
            }
            taken += extent.length;
            let content = object_offset..object_offset + extent.length;
            pending.push(self.request_content(object, present, content));
        }
        for pending in pending {
            let _ = pending.resolve(drop).await;
        }
        self.fetches.readahead.adjust(taken, 0);
    }
}

/// Puts the parts together: extents, then what was written over them. What nothing covers is a hole.
fn join(plan: &Plan, mut parts: Vec<(u64, Bytes)>) -> Bytes {
    let length = plan.end - plan.start;
    for extent in &plan.extents {
        if let ExtentSource::Inline(bytes) = &extent.source {
            parts.push((extent.file_offset, bytes.clone()));
        }
    }
    parts.extend(plan.overlay.iter().cloned());
    if let [(offset, bytes)] = &parts[..]
        && *offset == plan.start
        && bytes.len() as u64 == length
    {
        return bytes.clone();
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut joined = Buffer::with_capacity(length);
    joined.resize(length, 0);
    for (offset, bytes) in parts {
        let at = usize::try_from(offset - plan.start).unwrap_or(usize::MAX);
        joined[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    joined.freeze()
}
