//! Our own image: the programs that this workspace builds, with the libraries that they are linked with on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::command::Run;
use crate::failure::Failure;
use crate::image::{Image, Tree};

/// Its name in the lab.
pub const NAME: &str = "twinshore.io/twinshore:lab";

/// What is in it, of what there is.
const PROGRAMS: [&str; 3] = ["twinshore", "twinshore-operator", "twinshore-csi"];

/// Certificates of public authorities, for buckets on the internet.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The image of the programs in a directory. None if there is no program of ours.
pub fn image(directory: &Path) -> Result<Option<Image>, Failure> {
    let programs: Vec<PathBuf> = PROGRAMS
        .into_iter()
        .map(|program| directory.join(program))
        .filter(|program| program.is_file())
        .collect();
    if programs.is_empty() {
        return Ok(None);
    }
    let mut tree = Tree::base();
    for program in &programs {
        for library in libraries(program)? {
            tree.file(&library.to_string_lossy(), 0o755, &library);
        }
        if let Some(name) = program.file_name().and_then(|name| name.to_str()) {
            tree.file(&format!("usr/bin/{name}"), 0o755, program);
        }
    }
    let authorities = Path::new(AUTHORITIES);
    if authorities.is_file() {
        tree.file(AUTHORITIES, 0o644, authorities);
    }
    Ok(Some(Image {
        names: vec![NAME.to_owned()],
        tree,
        entrypoint: vec!["/usr/bin/twinshore".to_owned()],
        command: vec!["--help".to_owned()],
        user: "65532:65532".to_owned(),
    }))
}

/// What a program is linked with, under the paths where its loader looks.
pub(super) fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let said = match Run::new("ldd", [program]).output() {
        Ok(said) => said,
        Err(error) if error.said().contains("not a dynamic executable") => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(paths(&said))
}

/// `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)`, and the loader itself without an arrow.
fn paths(said: &str) -> BTreeSet<PathBuf> {
    said.lines()
        .filter_map(|line| {
            let line = line.trim();
            let path = line.split_once("=> ").map_or(line, |(_, path)| path);
            let path = path.split(' ').next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_the_loader_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected: BTreeSet<PathBuf> = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
            .into_iter()
            .map(PathBuf::from)
            .collect();
        assert_eq!(paths(said), expected);
    }
}
