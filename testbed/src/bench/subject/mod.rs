//! What is measured: a mounted file system that can be made cold, and the programs that work for it.

mod empty;
mod juicefs;
mod twinshore;

use std::path::PathBuf;

use twinshore_testbed::failure::Failure;

use crate::measure::Meter;

pub use self::empty::Empty;
pub use self::juicefs::Juicefs;
pub use self::twinshore::Twinshore;

/// A mounted file system.
pub trait Subject {
    /// Where it is mounted.
    fn root(&self) -> PathBuf;

    /// Makes every cache cold, by unmounting and mounting again with an empty cache directory.
    async fn cold(&mut self) -> Result<(), Failure>;

    /// Who works for it. Changes when it is made cold.
    fn meter(&self) -> Result<Meter, Failure>;
}
