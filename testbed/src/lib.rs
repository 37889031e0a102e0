//! Two regions on one machine, for the demo and for the tests on real mounts.
//!
//! Everything here looks at Twinshore from outside: it starts the `twinshore` binary, talks to it over its command line,
//! works on its mounts with ordinary programs and reads what its buckets hold. The S3 servers and the line between the
//! regions run in this process, so that a test can stop them, slow them and cut them.

pub mod commands;
pub mod failure;
pub mod mount_table;
pub mod patience;
pub mod process;
pub mod progress;
pub mod regions;
pub mod s3server;
pub mod status;
pub mod tree;
pub mod wan;
