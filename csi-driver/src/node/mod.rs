//! The node plugin: mounts volumes on its node, and binds what pods use of them.
//!
//! | file | what it is |
//! |---|---|
//! | `calls` | the node service: one function for each call |
//! | `volumes` | one mount for each volume |
//! | `access` | who uses what, registered with the metadata service |
//! | `records` | what is staged, on disk |
//! | `paths` | where things are, and which paths are let in |
//! | `mounting`, `table` | mount(2) and its relatives; the kernel's table of mounts |
//! | `registration`, `authority` | the kubelet is told that this plugin is here |
//! | `run` | the life of the process |

mod access;
mod authority;
mod calls;
mod mounting;
mod paths;
mod records;
mod registration;
mod run;
mod table;
mod volumes;

pub use self::run::{NodeSettings, run};
