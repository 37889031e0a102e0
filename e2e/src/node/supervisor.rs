//! Starts the components and starts again what ended: some end by themselves when they start before what they need (the controller manager, before the API
//! server has made its roles), and tests kill them.
//!
//! Invariant: every component is running, or will be started within [`PAUSE`]. A process number is entered under the same lock under which
//! its process was started, and looked up under it, so no end is missed however fast it comes. As process 1 it also reaps
//! what containers orphan.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::failure::{Failure, make_directory};
use crate::node::components::Component;

/// Between the end of a component and its next start: what it needs may come meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Which component each process is.
type Running = Arc<Mutex<HashMap<i32, Component>>>;

/// Runs the components for ever. Returns only if it cannot wait for them.
pub fn run(components: &[Component], logs: &Path) -> Result<(), Failure> {
    make_directory(logs)?;
    let running = Running::default();
    for component in components {
        start(&running, component.clone(), logs);
    }
    loop {
        let ended = match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => Some((pid.as_raw_nonzero().get(), status)),
            // Interrupted, or everything waits to be started again.
            Ok(None) | Err(Errno::INTR) => None,
            Err(Errno::CHILD) => {
                thread::sleep(PAUSE);
                None
            }
            Err(errno) => return Err(Failure::system("wait for the components")(errno)),
        };
        let Some((pid, status)) = ended else { continue };
        let component = running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
        if let Some(component) = component {
            eprintln!("{} (process {pid}) ended: {status:?}", component.name);
            start_later(&running, component, logs);
        }
    }
}

fn start_later(running: &Running, component: Component, logs: &Path) {
    let running = Arc::clone(running);
    let logs = logs.to_owned();
    thread::spawn(move || {
        thread::sleep(PAUSE);
        start(&running, component, &logs);
    });
}

fn start(running: &Running, component: Component, logs: &Path) {
    let mut all = running.lock().unwrap_or_else(PoisonError::into_inner);
    match spawn(&component, logs) {
        Ok(pid) => {
            all.insert(pid, component);
        }
        Err(error) => {
            drop(all);
            eprintln!("{}: {}", component.name, crate::failure::chain(&error));
            start_later(running, component, logs);
        }
    }
}

fn spawn(component: &Component, logs: &Path) -> Result<i32, Failure> {
    let path = logs.join(format!("{}.log", component.name));
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Failure::file("open", &path))?;
    let errors = log.try_clone().map_err(Failure::file("open", &path))?;
    // Not waited for through this handle: `run` waits for whatever ends.
    let child = Command::new(&component.program)
        .args(&component.arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(Failure::io(format!("start {}", component.program.display())))?;
    i32::try_from(child.id()).map_err(|_| Failure::wrong("a process number is too large"))
}
