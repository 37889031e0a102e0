//! The FUSE adapter: the kernel's requests in, [`Vfs`](crate::vfs::Vfs) calls out. No decision about files is made here.
//!
//! | file | what it is |
//! |---|---|
//! | `adapter` | fuser's trait: cached answers at once on the reader threads, everything else on the async runtime |
//! | `answers` | what each reply carries, and for how long it is kept |
//! | `convert` | types and flags, pure |
//! | `listing` | directory pages, pure |
//! | `locks` | what fuser does not tell about locks, and which locks belong to which open file |
//! | `requests` | every request is answered: deadlines and signals |
//! | `process` | groups and signals of the process behind a request |
//! | `notifier` | tells the kernel what to drop |
//! | `names` | who waits for names to be dropped, while this mount changes names itself, pure |
//! | `freshness` | an answer older than an invalidation is not kept |
//!
//! The kernel's node id is the inode number, so a mount can be taken over by another process. `FORGET` needs no answer and no bookkeeping: inodes live
//! in the metadata service, and the layers below bound their own caches.

mod adapter;
mod answers;
mod convert;
mod freshness;
mod listing;
mod locks;
mod names;
mod notifier;
mod process;
mod requests;

pub use self::adapter::{Adapter, AdapterOptions};
pub use self::freshness::{Freshness, Moment, Verdict};
pub use self::names::{Mark, PendingNames};
pub use self::notifier::{Device, Kernel, KernelNotifier};
