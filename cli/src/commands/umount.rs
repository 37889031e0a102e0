//! `twinshore umount`.

use twinshore_filesystem::mount::{UnmountMode, unmount};

use crate::arguments::UmountArguments;
use crate::error::CommandError;

/// Flushes and unmounts.
pub fn run(arguments: &UmountArguments) -> Result<(), CommandError> {
    let mode = match (arguments.lazy, arguments.force) {
        (_, true) => UnmountMode::Force,
        (true, false) => UnmountMode::Lazy,
        (false, false) => UnmountMode::Clean,
    };
    unmount(&arguments.mount_point, mode).map_err(CommandError::failed(format!(
        "unmount {}",
        arguments.mount_point.display()
    )))
}
