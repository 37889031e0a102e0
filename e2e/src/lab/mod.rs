//! The lab as a whole: up, down, and how it is.

mod down;
mod product;
mod status;
mod up;
mod usage;

use std::fs::{self, File};

use crate::failure::{Failure, make_directory};
use crate::place::Place;

pub use down::down;
pub use product::{load, load_image};
pub use status::{is_up, status};
pub use up::{Options, up};

/// Keeps others from bringing up or taking down while it is held. Goes with the process.
struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Waits for whoever holds it.
    fn take(place: &Place) -> Result<Self, Failure> {
        let path = place.lock();
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let file = File::create(&path).map_err(Failure::file("open", &path))?;
        if file.try_lock().is_err() {
            println!("somebody else brings the lab up or takes it down: waiting for them");
            file.lock().map_err(Failure::file("lock", &path))?;
        }
        Ok(Self(file))
    }
}

/// Removes the lock's file; whoever waits for it holds a file without a name, which is as good once the lab is gone.
fn remove_lock(place: &Place) {
    let _ = fs::remove_file(place.lock());
}
