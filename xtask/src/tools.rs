//! External test programs, of pinned versions, built once into the cache.

use std::path::PathBuf;
use std::process::Command;

use crate::outcome::Outcome;
use crate::packages::is_installed;
use crate::place::Place;
use crate::process::{cargo, success};

/// Programs from crates.io.
const CRATES: [(&str, &str); 2] = [("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// An S3 server with checksums and exact conditional requests, for the tests of the storage adapter.
const VERSITYGW: (&str, &str) = ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0");

/// Builds the conformance suites if they are not there.
pub fn conformance(place: &Place) -> Result<(), String> {
    let tools = place.tools();
    // What `cargo install` has installed stands in this file.
    let installed = std::fs::read_to_string(tools.join(".crates.toml")).unwrap_or_default();
    for (name, version) in CRATES {
        if installed.contains(&format!("\"{name} {version} ")) && tools.join("bin").join(name).is_file() {
            continue;
        }
        println!("== building {name} {version} into {} (once)", tools.display());
        let mut command = cargo(place);
        command
            .args([
                "install",
                "--locked",
                "--force",
                &format!("{name}@{version}"),
                "--root",
            ])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", place.cache.join("tools-build"));
        success(&mut command)?;
    }
    Ok(())
}

/// Builds versitygw if it is not there. Without Go it is left out, and said so.
pub fn versitygw(place: &Place, outcome: &mut Outcome) -> Option<PathBuf> {
    let (module, version) = VERSITYGW;
    let directory = place.tools().join(format!("versitygw-{version}"));
    let binary = directory.join("versitygw");
    if binary.is_file() {
        return Some(binary);
    }
    if !is_installed("go") {
        outcome.left_out(
            "tests against versitygw",
            "it is built with Go, which is not installed",
        );
        return None;
    }
    println!(
        "== building versitygw {version} into {} (once, some minutes)",
        directory.display()
    );
    let mut command = Command::new("go");
    command
        .args(["install", &format!("{module}@{version}")])
        .env("GOBIN", &directory)
        .env("GOFLAGS", "-buildvcs=false");
    match success(&mut command) {
        Ok(()) => Some(binary),
        Err(reason) => {
            outcome.check("build versitygw", Err(reason));
            None
        }
    }
}
