//! An image as one file: the layer, what runs in it, and the index that names it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, make_directory};
use crate::hexadecimal;
use crate::image::tar::{Kind, Writer};
use crate::image::tree::{Content, Entry, Tree};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its names, with tags.
    pub names: Vec<String>,
    /// Its files.
    pub tree: Tree,
    /// The program that runs in it, with arguments.
    pub entrypoint: Vec<String>,
    /// Arguments unless others are given.
    pub command: Vec<String>,
    /// Who runs it, as `user:group`; root if empty.
    pub user: String,
}

/// The processors' name in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Counts and sums what is written through it.
struct Digester<W> {
    to: W,
    sum: Sha256,
    size: u64,
}

impl<W: Write> Digester<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            sum: Sha256::new(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Digester<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.sum.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes the archive of an image. It appears whole or not at all.
///
/// The layer is not compressed: it never leaves the machine, and packing and unpacking would be most of the time that an import takes.
pub fn write(image: &Image, path: &Path) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let unique = std::process::id();
    let layer = path.with_extension(format!("{unique}.layer"));
    let partial = path.with_extension(format!("{unique}.part"));
    let result = write_layer(&image.tree, &layer)
        .and_then(|(digest, size)| write_archive(image, &layer, &digest, size, &partial))
        .and_then(|()| fs::rename(&partial, path))
        .map_err(Failure::file("make the image", path));
    for temporary in [layer, partial] {
        // What was renamed is not there.
        let _ = fs::remove_file(temporary);
    }
    result
}

fn write_layer(tree: &Tree, path: &Path) -> io::Result<(String, u64)> {
    let mut layer = Writer::new(Digester::new(BufWriter::with_capacity(
        1 << 20,
        File::create(path)?,
    )));
    for (path, entry) in tree.entries() {
        match entry {
            Entry::Directory { mode } => layer.entry(path, *mode, Kind::Directory)?,
            Entry::Link { target } => layer.entry(path, 0o777, Kind::Link(target))?,
            Entry::File {
                mode,
                content: Content::Bytes(bytes),
            } => layer.bytes(path, *mode, bytes)?,
            Entry::File {
                mode,
                content: Content::Of(from),
            } => {
                let file = File::open(from)?;
                let size = file.metadata()?.len();
                layer.file(path, *mode, size, file)?;
            }
        }
    }
    let digester = layer.finish()?;
    Ok((hexadecimal::text(&digester.sum.finalize()), digester.size))
}

fn write_archive(
    image: &Image,
    layer: &Path,
    layer_digest: &str,
    layer_size: u64,
    to: &Path,
) -> io::Result<()> {
    let layer_digest_named = format!("sha256:{layer_digest}");
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "User": image.user,
            "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest_named] },
    })
    .to_string();
    let config_digest = hexadecimal::text(&Sha256::digest(&config));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_digest}"),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest_named,
            "size": layer_size,
        }],
    })
    .to_string();
    let manifest_digest = hexadecimal::text(&Sha256::digest(&manifest));
    let named: Vec<_> = image
        .names
        .iter()
        .map(|name| {
            json!({
                "mediaType": MANIFEST,
                "digest": format!("sha256:{manifest_digest}"),
                "size": manifest.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
                // containerd takes the name from here.
                "annotations": { "io.containerd.image.name": name },
            })
        })
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": named,
    })
    .to_string();
    let mut archive = Writer::new(BufWriter::with_capacity(1 << 20, File::create(to)?));
    archive.bytes("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.bytes("index.json", 0o644, index.as_bytes())?;
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    archive.bytes(&blob(&config_digest), 0o644, config.as_bytes())?;
    archive.bytes(&blob(&manifest_digest), 0o644, manifest.as_bytes())?;
    archive.file(&blob(layer_digest), 0o644, layer_size, File::open(layer)?)?;
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_same_files_give_the_same_archive() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image {
            names: vec!["example.com/x:1".to_owned()],
            tree: Tree::base(),
            entrypoint: vec!["/x".to_owned()],
            ..Image::default()
        };
        let [one, two] = ["one.tar", "two.tar"].map(|name| directory.path().join(name));
        write(&image, &one).unwrap();
        write(&image, &two).unwrap();
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_not_there_leaves_no_archive() {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = Tree::base();
        tree.file("x", 0o755, &directory.path().join("missing"));
        let image = Image {
            tree,
            ..Image::default()
        };
        assert!(write(&image, &directory.path().join("x.tar")).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
