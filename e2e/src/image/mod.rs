//! Images of containers, made without a container engine: a tree of files becomes an archive of the Open Container Initiative's layout,
//! which containerd imports.
//!
//! Reproducible: the same files give the same bytes, whoever makes them and when.

pub mod application;
mod archive;
pub mod catalog;
pub mod product;
mod tar;
mod tree;

pub use archive::{Image, write};
pub use tree::{Content, Entry, Tree};
