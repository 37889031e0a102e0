//! What the node plugin and the mounter say to each other: one JSON document per message.
//!
//! # Flow
//!
//! 1. The mounter connects to the plugin's socket, which only the plugin can make in that directory, and says which mounts it serves (`Hello`).
//! 2. The mounter sends what it keeps of each (`Kept`, with the open `/dev/fuse` and the logbook), so that a plugin that has just begun has a copy.
//! 3. The plugin sends requests, each with a number; `Start` carries the open `/dev/fuse` of a mount and its logbook: of one that the plugin has just
//!    made, or of one that another mounter has served.
//! 4. The mounter answers each with its number, in any order, and tells when a mount process has ended (`Ended`).
//! 5. When the line breaks, the mounter goes on serving what it serves, and connects again: to the next plugin.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of these messages. The plugin refuses another.
pub const VERSION: u32 = 2;

/// A volume's mount on this node: `<namespace>/<name>` of its resource.
pub type MountKey = String;

/// Content of a `<volume>-client` Secret, by key. All of it is text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretData(pub BTreeMap<String, String>);

impl std::fmt::Debug for SecretData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretData(..)")
    }
}

/// What the plugin asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// For the answer.
    pub number: u64,
    /// What.
    pub command: Command,
}

/// What the plugin asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Serve a mount, whose device and logbook come with this message. Answered when it can be used.
    Start {
        /// Which.
        key: MountKey,
        /// Where it is mounted, for people.
        mount_point: String,
        /// The node.
        node: String,
        /// What it needs.
        secret: SecretData,
    },
    /// Keys or certificates have changed.
    Renew {
        /// Which.
        key: MountKey,
        /// What it needs now.
        secret: SecretData,
    },
    /// The mount is gone: wait until its process has written everything out. Of a mount that is not served it is done at once.
    Finish {
        /// Which.
        key: MountKey,
    },
    /// End a process whose mount can no longer be used.
    Kill {
        /// Which.
        key: MountKey,
    },
}

/// What the mounter says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What it serves.
        mounts: Vec<MountKey>,
    },
    /// To a request.
    Answer {
        /// Its number.
        number: u64,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// What is kept of a mount comes with this message.
    Kept {
        /// Which.
        key: MountKey,
    },
    /// A mount has ended, or cannot be gone on with.
    Ended {
        /// Which.
        key: MountKey,
        /// How, and what it said last.
        how: String,
    },
}
