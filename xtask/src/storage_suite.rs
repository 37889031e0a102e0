//! Kubernetes' own suite for storage drivers, with the program that its pods run.
//!
//! `e2e/tools/storage` is a Go module of its own, with the same versions as `e2e/tools/cluster`, so that what was compiled for the clusters is not compiled again. It is built only
//! when it is asked for.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::go::{compile, hash};
use crate::packages::is_installed;
use crate::place::Place;

/// The suite's name on the command line.
pub const NAME: &str = "external-storage";

/// Variable of `twinshore-lab`: where these programs are.
pub const VARIABLE: &str = "TWINSHORE_LAB_STORAGE_SUITE";

/// What is built: the file, how, and what of. Vetting the suite would vet everything that it is made of, which takes longer than compiling it.
const PROGRAMS: [(&str, &[&str], &str); 2] = [
    (
        "agnhost",
        &["build", "-v", "-ldflags", "-s -w"],
        "k8s.io/kubernetes/test/images/agnhost",
    ),
    (
        "storage.test",
        &[
            "test",
            "-vet=off",
            "-c",
            "-ldflags",
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4",
        ],
        "./suite",
    ),
];

/// Builds what is not there; the directory that holds it.
pub fn programs(place: &Place) -> Result<PathBuf, String> {
    let module = place.root.join("e2e/tools/storage");
    let mut parts = Vec::new();
    for file in ["go.mod", "suite/suite_test.go"] {
        let path = module.join(file);
        parts.push(fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?);
    }
    let key = hash(parts.iter().map(Vec::as_slice));
    let cache = place.tools().join("go");
    let directory = cache.join(format!("storage-suite-{key:016x}"));
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let lock =
        File::create(cache.join(".lock")).map_err(|error| format!("cannot lock the cache: {error}"))?;
    lock.lock()
        .map_err(|error| format!("cannot lock the cache: {error}"))?;
    for (name, arguments, package) in PROGRAMS {
        let path = directory.join(name);
        if path.is_file() {
            continue;
        }
        if !is_installed("go") {
            return Err("the suite is built with Go, which is not installed".to_owned());
        }
        println!(
            "== building {name} into {} (once, some minutes)",
            directory.display()
        );
        compile(name, arguments, package, &module, &path)?;
    }
    Ok(directory)
}
