//! What the parts of Twinshore say to each other: identifiers, file attributes, extents, operations and their replies,
//! the messages of a session, and the volume's format record.
//!
//! This crate depends on no other of the workspace and does no IO, apart from [`session`], the client's half of a
//! metadata session, which every client and worker needs alike.
//!
//! Everything that crosses the wire or reaches a disk is CBOR (RFC 8949) with numbered fields (`minicbor`). The rule of
//! evolution: a number is never reused; a new field is an `Option` or has a default; a new variant is sent only to a peer
//! whose `Hello` or `Welcome` announced a protocol version that has it.

pub mod attributes;
pub mod claims;
pub mod errno;
pub mod extent;
pub mod format;
pub mod identifiers;
pub mod lock;
pub mod message;
pub mod name;
pub mod operation;
pub mod replication;
pub mod reply;
pub mod session;
pub mod status;
pub mod time;
pub mod tls;
pub mod wire;

pub use attributes::{Attributes, FileType};
pub use errno::Errno;
pub use extent::{Extent, ExtentSource};
pub use identifiers::{
    Epoch, InodeNumber, ObjectId, Position, RequestNumber, SessionId, Side, Sides, VolumeId,
};
pub use name::FileName;
pub use operation::{Caller, Operation};
pub use reply::Reply;
pub use time::Timestamp;
