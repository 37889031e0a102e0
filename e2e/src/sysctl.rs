//! Settings of the whole machine that a starting kubelet changes.
//!
//! They are read before the first node starts and put back when all kubelets have started, and once more when the lab is taken down. What is
//! recorded is never overwritten while a lab is there, or the second `up` would record what the kubelets set.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, write_file};

/// A kubelet wants memory to be promised freely, and the machine to restart when the kernel fails.
const CHANGED_BY_KUBELET: [&str; 3] = ["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops"];

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Writes down how they are, unless that was done.
pub fn remember(record: &Path) -> Result<(), Failure> {
    if record.exists() {
        return Ok(());
    }
    let mut text = String::new();
    for name in CHANGED_BY_KUBELET {
        let path = file(name);
        let value = fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}={}", value.trim());
    }
    write_file(record, text)
}

/// Puts them back, if they were written down.
pub fn restore(record: &Path) -> Result<(), Failure> {
    let Ok(text) = fs::read_to_string(record) else {
        return Ok(());
    };
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let path = file(name);
        let now = fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
        if now.trim() != value {
            fs::write(&path, value).map_err(Failure::file("write", &path))?;
        }
    }
    Ok(())
}
