//! Who has access to a directory: the rule is in [`twinshore_protocol::claims::AccessMode`]'s module.
//!
//! # Invariants
//!
//! * Every row in `i` has one in `h` under its directory, and the reverse.
//! * Of the holds of a directory that count, any two go together.

use std::collections::BTreeSet;
use std::fmt::Display;

use twinshore_protocol::claims::{
    AccessHold, AccessMode, AccessTo, HoldPosition, HoldsPage, Label, NodeName, Refused,
};
use twinshore_protocol::{FileType, InodeNumber, Reply};

use super::super::keys::{self, KeyReader};
use super::super::transaction::{Attempt, Transaction, corrupt, decode};
use super::super::values::{EntryRow, SessionRow};
use super::rows::{CopyState, HoldRow};
use super::{page_limit, unknown};

/// Holds of one directory at most: the pods of both clusters that share it.
const HOLDS_PER_DIRECTORY_MAX: usize = 16_384;

fn shown(node: NodeName, target: Label, row: HoldRow, alive: &BTreeSet<NodeName>) -> AccessHold {
    let HoldRow {
        directory: _,
        to,
        mode,
        since,
    } = row;
    AccessHold {
        counts: alive.contains(&node),
        node,
        target,
        mode,
        since,
        to,
    }
}

impl Transaction<'_> {
    /// The nodes that a session is of which is not over.
    fn nodes_alive(&self) -> Attempt<BTreeSet<NodeName>> {
        let mut alive = BTreeSet::new();
        for (key, value) in self.scan_prefix(&[keys::SESSION], usize::MAX)? {
            let session: SessionRow = decode(&key, &value)?;
            alive.extend(session.description.node);
        }
        Ok(alive)
    }

    fn directory_to(&mut self, to: &AccessTo) -> Attempt<InodeNumber> {
        match to {
            AccessTo::Claim(key) => {
                let row = self.claim_row(key)?.ok_or_else(|| unknown(key))?;
                match self.claimed_row(row.directory)?.state {
                    CopyState::Ready => Ok(row.directory),
                    CopyState::Copying => Err(Refused::BeingCopied(format!("claim {key}")).into()),
                    CopyState::Failed { reason } => {
                        let what = format!("claim {key}");
                        Err(Refused::CopyFailed { what, reason }.into())
                    }
                }
            }
            AccessTo::Path(path) => {
                let mut directory = InodeNumber::ROOT;
                for name in path.names() {
                    directory = match self.entry(directory, name)? {
                        Some(EntryRow {
                            inode,
                            kind: FileType::Directory,
                        }) => inode,
                        _ => return Err(Refused::NoDirectory(path.clone()).into()),
                    };
                }
                Ok(directory)
            }
        }
    }

    /// The holds of a directory.
    fn holds_of(&self, directory: InodeNumber) -> Attempt<Vec<(NodeName, Label, HoldRow)>> {
        let mut holds = Vec::new();
        for (key, _) in self.scan_prefix(&keys::of(keys::HOLD_OF, directory.0), HOLDS_PER_DIRECTORY_MAX)? {
            let mut reader = KeyReader::new(&key);
            let (Some(_), Some((node, target))) = (reader.number(), reader.hold()) else {
                return Err(corrupt(&key, "malformed key").into());
            };
            let row = self
                .get(&keys::hold(&node, &target))?
                .ok_or_else(|| corrupt(&key, "the access that it names is missing"))?;
            holds.push((node, target, row));
        }
        Ok(holds)
    }

    fn forget_hold(&mut self, directory: InodeNumber, node: &NodeName, target: &Label) {
        self.remove(keys::hold(node, target));
        self.remove(keys::hold_of(directory, node, target));
    }

    pub(super) fn hold_access(
        &mut self,
        to: &AccessTo,
        node: &NodeName,
        target: &Label,
        mode: AccessMode,
    ) -> Attempt<Reply> {
        let directory = self.directory_to(to)?;
        let own: Option<HoldRow> = self.get(&keys::hold(node, target))?;
        if let Some(own) = own {
            if (own.directory, own.mode) == (directory, mode) {
                return Ok(Reply::Done);
            }
            let HoldRow { to, mode, .. } = own;
            return Err(Refused::OtherHold { to, mode }.into());
        }
        let alive = self.nodes_alive()?;
        if !alive.contains(node) {
            return Err(Refused::NoMount(node.clone()).into());
        }
        let holds = self.holds_of(directory)?;
        if holds.len() >= HOLDS_PER_DIRECTORY_MAX {
            return Err(Refused::TooMany {
                what: "targets with access to this directory".to_owned(),
                limit: HOLDS_PER_DIRECTORY_MAX as u64,
            }
            .into());
        }
        for (other, other_target, row) in holds {
            if row.mode.allows(mode, other == *node) {
                continue;
            }
            if alive.contains(&other) {
                let holder = Box::new(shown(other, other_target, row, &alive));
                return Err(Refused::Held { asked: mode, holder }.into());
            }
            self.forget_hold(directory, &other, &other_target);
        }
        let row = HoldRow {
            directory,
            to: to.clone(),
            mode,
            since: self.context.now,
        };
        self.put(keys::hold(node, target), &row);
        self.mark(keys::hold_of(directory, node, target));
        Ok(Reply::Done)
    }

    pub(super) fn release_access(&mut self, node: &NodeName, target: &Label) -> Attempt<Reply> {
        if let Some(row) = self.get::<HoldRow>(&keys::hold(node, target))? {
            self.forget_hold(row.directory, node, target);
        }
        Ok(Reply::Done)
    }

    /// A directory is to be removed: no hold may count, and those that do not go with it.
    pub(super) fn drop_holds(&mut self, directory: InodeNumber, path: &dyn Display) -> Attempt<()> {
        let holds = self.holds_of(directory)?;
        if holds.is_empty() {
            return Ok(());
        }
        let alive = self.nodes_alive()?;
        for (node, target, row) in holds {
            if alive.contains(&node) {
                return Err(Refused::InUse {
                    path: path.to_string(),
                    holder: Box::new(shown(node, target, row, &alive)),
                }
                .into());
            }
            self.forget_hold(directory, &node, &target);
        }
        Ok(())
    }

    pub(super) fn list_access(
        &mut self,
        node: Option<&NodeName>,
        from: Option<&HoldPosition>,
        limit: u32,
    ) -> Attempt<Reply> {
        let prefix = match node {
            Some(node) => keys::holds_of_node(node),
            None => bytes::Bytes::from_static(&[keys::HOLD]),
        };
        let end = keys::after_prefix(&prefix);
        let start = from.map(|from| keys::hold(&from.node, &from.target));
        let start = start.filter(|start| *start > prefix).unwrap_or(prefix);
        let alive = self.nodes_alive()?;
        let limit = page_limit(limit);
        let mut page = HoldsPage::default();
        for (at, (key, value)) in self.scan(&start, &end, limit + 1)?.into_iter().enumerate() {
            let (node, target) = KeyReader::new(&key)
                .hold()
                .ok_or_else(|| corrupt(&key, "malformed key"))?;
            if at == limit {
                page.next = Some(HoldPosition { node, target });
            } else {
                let row: HoldRow = decode(&key, &value)?;
                page.holds.push(shown(node, target, row, &alive));
            }
        }
        Ok(Reply::Holds(page))
    }
}
