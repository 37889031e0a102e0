//! Recalling ahead: who removes the files of a directory one after the other should not wait for a far region at each of them.
//!
//! A removal waits until everybody who caches the attributes of the file has dropped them. If another session has cached those of a whole
//! directory (it has listed or searched it), that is one round trip to it for each file. So after [`STRIKES`] removals in one directory that
//! had to wait for the same session, it is told to drop the next files of the directory too, in one message that nobody waits for.
//!
//! # Guarantees and limits
//!
//! Dropping is always allowed, so nothing rests on this. What is dropped needlessly is asked for again. One message names at most [`AHEAD`]
//! files, found among the next [`LOOKED_AT`] entries in the order of a listing (programs remove in this order, or in no particular one).
//! At most [`COUNTED_MAX`] pairs of a session and a directory are counted; beyond it the count begins anew.

use std::collections::BTreeMap;

use twinshore_protocol::message::Invalidation;
use twinshore_protocol::{FileName, InodeNumber, Operation, SessionId};

use super::batch::Held;
use super::{Service, ServiceError};
use crate::core;
use crate::view::ViewStore;

/// Removals that wait for the same session before it is told of the rest.
const STRIKES: u32 = 8;

/// Files that are named at a time.
const AHEAD: usize = 2048;

/// Entries that are looked at for them: some milliseconds.
const LOOKED_AT: usize = 8192;

/// Counted pairs at most.
const COUNTED_MAX: usize = 1024;

/// What was counted, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    strikes: BTreeMap<(SessionId, InodeNumber), u32>,
    due: Vec<(SessionId, InodeNumber, FileName)>,
}

impl Ahead {
    /// A removal has to wait for these sessions.
    pub fn waits<'a>(&mut self, held: &Held, sessions: impl Iterator<Item = &'a SessionId>) {
        let (Operation::Unlink { parent, name }, Ok(_)) = (&held.operation, &held.result) else {
            return;
        };
        for session in sessions {
            if self.strikes.len() >= COUNTED_MAX {
                self.strikes.clear();
            }
            let strikes = self.strikes.entry((*session, *parent)).or_default();
            *strikes += 1;
            if *strikes >= STRIKES {
                self.strikes.remove(&(*session, *parent));
                self.due.push((*session, *parent, name.clone()));
            }
        }
    }
}

impl<V: ViewStore> Service<V> {
    /// Tells those who were waited for again and again to drop what comes next.
    pub(super) fn recall_ahead(&mut self) -> Result<(), ServiceError> {
        for (session, directory, name) in std::mem::take(&mut self.ahead.due) {
            let Some(oldest) = self.sessions.get(&session).map(|state| state.oldest_generation) else {
                continue;
            };
            let next = core::entries_after(&self.view(), directory, &name, LOOKED_AT)?;
            let held = next
                .into_iter()
                .filter(|inode| self.leases.is_cached_by(*inode, session, oldest));
            let items: Vec<Invalidation> = held.take(AHEAD).map(Invalidation::Everything).collect();
            for item in &items {
                self.leases.drop_holder(super::leases::inode_of(item), session);
            }
            self.push(session, items);
        }
        Ok(())
    }
}
