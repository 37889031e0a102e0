//! Trust between the parts of a volume: who signs what, and when it is renewed.
//!
//! ```text
//! volume's authority (ten years, in the primary's cluster)
//!   +- intermediate of the primary region -> metadata service, workers, mounts, the operator there
//!   +- intermediate of the target region  -> workers, mounts, the operator there; goes over in the join bundle, with its key
//! ```
//!
//! A leaf lasts thirty days and is renewed after twenty. It names its volume and its role in a URI,
//! `twinshore://<volume id>/<role>`; the metadata service takes the role from there.
//!
//! Everything here takes the time as an argument and does no IO; only keys are random.

mod authority;
mod bundle;
mod leaf;

pub use authority::{Authority, AuthorityError};
pub use bundle::{BundleError, JoinBundle};
pub use leaf::{Decision, LeafError, LeafRequest, Why, decide, issue};

/// What a certificate lets its holder be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartRole {
    /// A mount.
    Client,
    /// A worker.
    Worker,
    /// Whoever may change the volume: the metadata service itself, the operator, the controller plugin.
    Admin,
}

impl PartRole {
    /// As it stands in a certificate.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Admin => "admin",
        }
    }
}

/// A certificate, or a chain of them, with the private key of the first (PEM).
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Certificates.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}
