//! The mount: the file system without FUSE ([`vfs`]), its block cache, and the FUSE adapter.

pub mod cache;
pub mod fuse;
pub mod logbook;
pub mod mount;
pub mod vfs;
