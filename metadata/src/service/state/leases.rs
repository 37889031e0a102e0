//! Who caches what.
//!
//! A reply that carries attributes, entries or extents makes its session a *holder* of an inode: of its attributes, of its
//! content, of the names in it. A change is told to every other holder, which is then forgotten as far as it has to drop
//! what it had. A holder stands with the *generation* of its session's stream. What a session was told over an older stream
//! counts until its kernel has dropped it, which the session says once for all (see [`super::recall`]): a reconnect costs no
//! walk over the table.
//!
//! The table is bounded: at the limit, holders are told to drop everything about an inode, going round the table in the
//! order of inodes.

use std::collections::BTreeMap;

use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{Errno, InodeNumber, Operation, Reply, SessionId};

/// What a holder caches of an inode: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// Its attributes.
    pub const ATTRIBUTES: Self = Self(1);
    /// Its extents and pages.
    pub const CONTENT: Self = Self(2);
    /// The names in it, absent ones too.
    pub const NAMES: Self = Self(4);
    const ALL: Self = Self(7);

    const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// After this many entries of one directory a holder that has not come back for more is told to drop the directory whole:
/// it then hears of no further ones.
const ENTRY_STRIKES_MAX: u8 = 16;

#[derive(Clone, Copy, Debug)]
struct Holder {
    generation: u32,
    kinds: Kinds,
    strikes: u8,
}

/// The table of holders.
#[derive(Debug)]
pub struct Leases {
    holders: BTreeMap<(InodeNumber, SessionId), Holder>,
    limit: usize,
    /// Where the next one to be dropped at the limit is looked for.
    hand: (InodeNumber, SessionId),
}

impl Leases {
    /// An empty table of at most `limit` holders.
    pub fn new(limit: usize) -> Self {
        Self {
            holders: BTreeMap::new(),
            limit,
            hand: (InodeNumber(0), SessionId(0)),
        }
    }

    /// How many there are, stale ones included.
    pub fn count_all(&self) -> usize {
        self.holders.len()
    }

    /// Makes a session a holder over its present stream; what it holds since `oldest` counts.
    pub fn grant(
        &mut self,
        session: SessionId,
        oldest: u32,
        generation: u32,
        inode: InodeNumber,
        kinds: Kinds,
    ) {
        let holder = self.holders.entry((inode, session)).or_insert(Holder {
            generation,
            kinds: Kinds::default(),
            strikes: 0,
        });
        if holder.generation < oldest {
            holder.kinds = Kinds::default();
            holder.strikes = 0;
        }
        holder.generation = generation;
        holder.kinds = holder.kinds.union(kinds);
        if kinds.meets(Kinds::NAMES) {
            holder.strikes = 0;
        }
    }

    /// Which sessions must hear of a change, and what each has to drop. `oldest_of` answers the generation of the oldest stream
    /// that counts for a session, or `None` if there is no such session. `cause` keeps what it holds: it knows from the reply.
    pub fn recall(
        &mut self,
        change: &Invalidation,
        cause: Option<SessionId>,
        oldest_of: impl Fn(SessionId) -> Option<u32>,
        mut tell: impl FnMut(SessionId, Invalidation),
    ) {
        let (inode, told, dropped) = match change {
            Invalidation::Attributes(inode) => (*inode, Kinds::ATTRIBUTES, Kinds::ATTRIBUTES),
            Invalidation::Content(inode) => {
                let both = Kinds::ATTRIBUTES.union(Kinds::CONTENT);
                (*inode, both, both)
            }
            // The other names stay cached.
            Invalidation::Entry(directory, _) => (*directory, Kinds::NAMES, Kinds::default()),
            Invalidation::Everything(inode) => (*inode, Kinds::ALL, Kinds::ALL),
        };
        let mut gone = Vec::new();
        for (key, holder) in self
            .holders
            .range_mut((inode, SessionId(0))..=(inode, SessionId(u64::MAX)))
        {
            let session = key.1;
            if oldest_of(session).is_none_or(|oldest| holder.generation < oldest) {
                gone.push(*key);
                continue;
            }
            if Some(session) == cause || !holder.kinds.meets(told) {
                continue;
            }
            let mut item = change.clone();
            holder.kinds = holder.kinds.without(dropped);
            if matches!(change, Invalidation::Entry(..)) {
                holder.strikes += 1;
                if holder.strikes >= ENTRY_STRIKES_MAX {
                    item = Invalidation::Everything(inode);
                    holder.kinds = Kinds::default();
                }
            }
            if holder.kinds == Kinds::default() {
                gone.push(*key);
            }
            tell(session, item);
        }
        for key in gone {
            self.holders.remove(&key);
        }
    }

    /// Does any session but this one hold something of the inode?
    pub fn held_by_other(&self, inode: InodeNumber, session: SessionId) -> bool {
        self.holders
            .range((inode, SessionId(0))..=(inode, SessionId(u64::MAX)))
            .any(|((_, holder), _)| *holder != session)
    }

    /// The same, not counting what a session was told over streams that count no more.
    pub fn is_cached_by_other(
        &self,
        inode: InodeNumber,
        session: SessionId,
        oldest_of: impl Fn(SessionId) -> Option<u32>,
    ) -> bool {
        self.holders
            .range((inode, SessionId(0))..=(inode, SessionId(u64::MAX)))
            .any(|((_, other), holder)| {
                *other != session && oldest_of(*other).is_some_and(|oldest| holder.generation >= oldest)
            })
    }

    /// Does this session hold something of the inode that it was told over a stream which counts?
    pub fn is_cached_by(&self, inode: InodeNumber, session: SessionId, oldest: u32) -> bool {
        (self.holders.get(&(inode, session))).is_some_and(|holder| holder.generation >= oldest)
    }

    /// It has been told to drop everything about the inode.
    pub fn drop_holder(&mut self, inode: InodeNumber, session: SessionId) {
        self.holders.remove(&(inode, session));
    }

    /// The next holder to drop, while there are more than the limit.
    pub fn overflow(&mut self) -> Option<(InodeNumber, SessionId)> {
        if self.holders.len() <= self.limit {
            return None;
        }
        let next = self
            .holders
            .range(self.hand..)
            .next()
            .or_else(|| self.holders.iter().next())
            .map(|(key, _)| *key)?;
        self.holders.remove(&next);
        self.hand = next;
        Some(next)
    }
}

/// The inode that an invalidation is about.
pub fn inode_of(change: &Invalidation) -> InodeNumber {
    match change {
        Invalidation::Attributes(inode)
        | Invalidation::Content(inode)
        | Invalidation::Entry(inode, _)
        | Invalidation::Everything(inode) => *inode,
    }
}

/// What a session may cache after this reply.
pub fn grants_of(
    operation: &Operation,
    result: &Result<Reply, Errno>,
    grants: &mut Vec<(InodeNumber, Kinds)>,
) {
    const WITH_CONTENT: Kinds = Kinds::ATTRIBUTES.union(Kinds::CONTENT);
    match operation {
        // Absence is an answer, and is cached.
        Operation::Lookup { parent, .. } if matches!(result, Ok(_) | Err(Errno::NotFound)) => {
            grants.push((*parent, Kinds::NAMES));
        }
        Operation::MakeNode { parent, .. }
        | Operation::MakeDirectory { parent, .. }
        | Operation::Create { parent, .. }
        | Operation::SymbolicLink { parent, .. }
        | Operation::Link { parent, .. }
        | Operation::Unlink { parent, .. }
        | Operation::RemoveDirectory { parent, .. }
            if result.is_ok() =>
        {
            grants.push((*parent, Kinds::NAMES));
        }
        Operation::Rename {
            parent, new_parent, ..
        } if result.is_ok() => {
            grants.push((*parent, Kinds::NAMES));
            grants.push((*new_parent, Kinds::NAMES));
        }
        Operation::ReadDirectory { directory, .. } if result.is_ok() => {
            grants.push((*directory, Kinds::NAMES));
        }
        Operation::ReadLink { inode }
        | Operation::GetExtendedAttribute { inode, .. }
        | Operation::ListExtendedAttributes { inode } => grants.push((*inode, Kinds::ATTRIBUTES)),
        Operation::Seek { inode, .. } => grants.push((*inode, WITH_CONTENT)),
        _ => {}
    }
    let Ok(reply) = result else { return };
    if let (Operation::MakeDirectory { .. }, Reply::Entry(made)) = (operation, reply) {
        // Its maker knows all its names: none.
        grants.push((made.inode, Kinds::NAMES));
    }
    match reply {
        Reply::Entry(attributes) | Reply::Attributes(attributes) => {
            grants.push((attributes.inode, Kinds::ATTRIBUTES));
        }
        Reply::Created { attributes, .. }
        | Reply::Extents { attributes, .. }
        | Reply::Copied { attributes, .. } => {
            grants.push((attributes.inode, WITH_CONTENT));
        }
        Reply::Directory { entries, .. } => {
            let known = entries.iter().filter_map(|entry| entry.attributes.as_ref());
            grants.extend(known.map(|attributes| (attributes.inode, Kinds::ATTRIBUTES)));
        }
        Reply::Committed { attributes } => {
            grants.extend(
                attributes
                    .iter()
                    .map(|attributes| (attributes.inode, WITH_CONTENT)),
            );
        }
        Reply::Removed { attributes, parent } => {
            grants.push((attributes.inode, Kinds::ATTRIBUTES));
            grants.push((parent.inode, Kinds::ATTRIBUTES));
        }
        Reply::Renamed { moved, replaced } => {
            grants.push((moved.inode, Kinds::ATTRIBUTES));
            grants.extend(
                replaced
                    .iter()
                    .map(|attributes| (attributes.inode, Kinds::ATTRIBUTES)),
            );
        }
        Reply::Done
        | Reply::Bytes(_)
        | Reply::Offset(_)
        | Reply::Names(_)
        | Reply::FileSystem(_)
        | Reply::Lock(_)
        | Reply::Granted { .. }
        | Reply::DirectoryUsage(_)
        | Reply::Trash(_)
        | Reply::Status(_)
        | Reply::Objects(_)
        | Reply::InlineExtents(_)
        | Reply::Compaction { .. }
        | Reply::Claim(_)
        | Reply::Claims(_)
        | Reply::Snapshot(_)
        | Reply::Snapshots(_)
        | Reply::Holds(_)
        | Reply::Refused(_) => {}
    }
}
