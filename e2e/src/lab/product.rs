//! Images of our own, brought into the nodes of a lab that is up.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::address::Node;
use crate::failure::{Failure, at_once, write_file};
use crate::image::{self, Content, Entry, Image, Tree, product};
use crate::node::NodeHandle;
use crate::place::Place;

/// Brings the image of our programs in a directory into every node that has not the same. Its name, if there are any.
pub fn load_programs(place: &Place, directory: &Path) -> Result<Option<String>, Failure> {
    let Some(image) = product::image(directory)? else {
        return Ok(None);
    };
    load_image(place, "our-image", &image)?;
    Ok(Some(product::NAME.to_owned()))
}

/// Brings an image into every node, unless the record of that name says that the same is there.
pub fn load_image(place: &Place, record: &str, image: &Image) -> Result<(), Failure> {
    let stamp = stamp_of(&image.tree)?;
    let record = place.state().join(record);
    if fs::read_to_string(&record).is_ok_and(|recorded| recorded == stamp) {
        return Ok(());
    }
    import_everywhere(place, image)?;
    write_file(&record, stamp)
}

/// Brings a tree of files as an image into every node.
pub fn load(place: &Place, directory: &Path, name: &str, entrypoint: Vec<String>) -> Result<(), Failure> {
    let image = Image {
        names: vec![name.to_owned()],
        tree: Tree::read(directory)?,
        entrypoint,
        ..Image::default()
    };
    import_everywhere(place, &image)
}

fn import_everywhere(place: &Place, image: &Image) -> Result<(), Failure> {
    let archive = place.state().join("import.tar");
    image::write(image, &archive)?;
    let nodes: Vec<Node> = Node::all().collect();
    let result = at_once("import an image", &nodes, |node| {
        NodeHandle::of(place, *node).import(&archive)
    });
    fs::remove_file(&archive).map_err(Failure::file("remove", &archive))?;
    result
}

/// What tells whether the files are others: sizes and times of change.
fn stamp_of(tree: &Tree) -> Result<String, Failure> {
    let mut stamp = String::new();
    for (path, entry) in tree.entries() {
        if let Entry::File {
            content: Content::Of(from),
            ..
        } = entry
        {
            let metadata = fs::metadata(from).map_err(Failure::file("look at", from))?;
            // Writing to a string does not fail.
            let _ = writeln!(
                stamp,
                "{path} {} {} {}.{}",
                from.display(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec()
            );
        }
    }
    Ok(stamp)
}
