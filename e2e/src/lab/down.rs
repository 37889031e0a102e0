//! Taking the lab down: everything it made, also what a broken one left.
//!
//! It finds things by what the kernel knows (namespaces, groups and links with the lab's prefix) as well as by records, so it works
//! without any of these. It goes on after a step that failed, and tells all that did; run again, it does what is left.

use std::fs;
use std::io;
use std::path::Path;

use crate::address::{Node, Region};
use crate::failure::Failure;
use crate::lab::{Lock, remove_lock};
use crate::node::NodeHandle;
use crate::place::Place;
use crate::s3::S3Server;
use crate::wan::Wan;
use crate::{cgroups, network, node};

/// Takes the lab down.
pub fn down(place: &Place) -> Result<(), Failure> {
    let _lock = Lock::take(place)?;
    let mut failures = Vec::new();
    let mut step = |result: Result<(), Failure>| failures.extend(result.err());
    step(Wan::of(place).stop());
    for region in Region::BOTH {
        step(S3Server::of(place, region).stop());
    }
    for node in Node::all() {
        step(NodeHandle::of(place, node).kill());
    }
    for namespace in network::namespaces() {
        step(network::remove_namespace(&namespace));
    }
    step(network::finish_removal());
    for node in Node::all() {
        step(cgroups::remove(node));
    }
    step(node::remove_points(&place.mount_points()));
    match failures.pop() {
        // What is still there may need its records.
        Some(only) if failures.is_empty() => return Err(only),
        Some(last) => {
            failures.push(last);
            return Err(Failure::Several(failures));
        }
        None => remove_state(place.state())?,
    }
    remove_lock(place);
    println!("the lab is down");
    Ok(())
}

/// Nodes have their own mounts, so there is none to be seen here; were there one, what is behind it must not be deleted.
fn remove_state(state: &Path) -> Result<(), Failure> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(table).map_err(Failure::file("read", table))?;
    let inside = format!("{}/", state.display());
    if let Some(mounted) = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .find(|path| path.starts_with(&inside))
    {
        return Err(Failure::wrong(format!(
            "{mounted} is still mounted: the state is left as it is"
        )));
    }
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::file("remove", state)(error)),
        _ => Ok(()),
    }
}
