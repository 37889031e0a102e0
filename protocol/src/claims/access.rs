//! Access modes, enforced across both clusters.
//!
//! # The rule
//!
//! A hold is a durable row: this target (a pod's mount) on this node has the directory in this mode. It *counts* as long as any session that says it
//! is of that node ([`crate::message::SessionDescription::node`]) is not over. Sessions of mounts say so: a node whose mounts are gone, or silent for
//! [`crate::message::SESSION_SECONDS`], has lost its rights with them, as nothing of a session that is over can commit; so what it
//! held can be given to another node. It can only be taken while it would count: mount first. What does not count stays where it is until it is released, or somebody asks for what it would be in the way of.
//!
//! After a restart of the service all sessions that it knew live on, and have that long to come back. So a restart takes nothing from anybody, and a node that
//! died together with the service is waited for as if it had died when the service came back.
//!
//! | held \ asked | single pod | single node | read only | read and write |
//! |---|---|---|---|---|
//! | single pod (RWOP) | no | no | no | no |
//! | single node (RWO) | no | on the same node | on the same node | on the same node |
//! | read only (ROX) | no | on the same node | yes | yes |
//! | read and write (RWX) | no | on the same node | yes | yes |

use minicbor::{Decode, Encode};

use super::{ClaimKey, DirectoryPath, KeyError, Label};
use crate::time::Timestamp;

/// How a target uses a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum AccessMode {
    /// `ReadWriteOncePod`: no other target at all, in either cluster.
    #[n(0)]
    SinglePod,
    /// `ReadWriteOnce`: no other node.
    #[n(1)]
    SingleNode,
    /// `ReadOnlyMany`: others may read, and write if their mode allows it.
    #[n(2)]
    ReadOnly,
    /// `ReadWriteMany`.
    #[n(3)]
    ReadWrite,
}

impl AccessMode {
    /// May targets of these two modes have the same directory?
    pub const fn allows(self, other: Self, same_node: bool) -> bool {
        match (self, other) {
            (Self::SinglePod, _) | (_, Self::SinglePod) => false,
            (Self::SingleNode, _) | (_, Self::SingleNode) => same_node,
            (Self::ReadOnly | Self::ReadWrite, Self::ReadOnly | Self::ReadWrite) => true,
        }
    }
}

impl std::fmt::Display for AccessMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SinglePod => "ReadWriteOncePod",
            Self::SingleNode => "ReadWriteOnce",
            Self::ReadOnly => "ReadOnlyMany",
            Self::ReadWrite => "ReadWriteMany",
        })
    }
}

/// A node of one of the clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeName {
    /// The region of its cluster.
    #[n(0)]
    pub region: Label,
    /// Its name there.
    #[n(1)]
    pub node: Label,
}

impl NodeName {
    /// Checks and takes both.
    pub fn new(region: impl Into<Box<str>>, node: impl Into<Box<str>>) -> Result<Self, KeyError> {
        Ok(Self {
            region: super::keys::region(region)?,
            node: Label::new(node)?,
        })
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.region, self.node)
    }
}

impl std::str::FromStr for NodeName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (region, node) = text.split_once('/').ok_or(KeyError::Form)?;
        Self::new(region, node)
    }
}

/// What is held.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccessTo {
    /// The directory of a claim.
    #[n(0)]
    Claim(#[n(0)] ClaimKey),
    /// A directory that nobody claims, of a volume that an administrator made by hand. It must exist.
    #[n(1)]
    Path(#[n(0)] DirectoryPath),
}

/// Who has what.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccessHold {
    /// Which node.
    #[n(0)]
    pub node: NodeName,
    /// Which target there: unique on the node, such as the target path.
    #[n(1)]
    pub target: Label,
    /// How.
    #[n(2)]
    pub mode: AccessMode,
    /// Since when.
    #[n(3)]
    pub since: Timestamp,
    /// What was asked for when it was taken.
    #[n(4)]
    pub to: AccessTo,
    /// It counts: a session of the node is not over.
    #[n(5)]
    pub counts: bool,
}

/// Where a listing of holds goes on: at this one, or the next if it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HoldPosition {
    /// The node.
    #[n(0)]
    pub node: NodeName,
    /// The target.
    #[n(1)]
    pub target: Label,
}

/// A page of holds, in the order of nodes and targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HoldsPage {
    /// The holds.
    #[n(0)]
    pub holds: Vec<AccessHold>,
    /// Where the next page begins; `None` if this is the last.
    #[n(1)]
    pub next: Option<HoldPosition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_compatible_both_ways_or_not_at_all() {
        use AccessMode::{ReadOnly, ReadWrite, SingleNode, SinglePod};
        for one in [SinglePod, SingleNode, ReadOnly, ReadWrite] {
            assert!(!SinglePod.allows(one, true));
            assert!(!SingleNode.allows(one, false));
            for other in [SinglePod, SingleNode, ReadOnly, ReadWrite] {
                for same in [true, false] {
                    assert_eq!(one.allows(other, same), other.allows(one, same));
                }
            }
        }
        assert!(SingleNode.allows(SingleNode, true));
        assert!(ReadOnly.allows(ReadWrite, false));
    }
}
