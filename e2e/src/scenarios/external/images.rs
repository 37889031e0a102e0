//! The images that the suite's pods ask for: Kubernetes' own test program, and the small programs under the names of what only lends them a shell.

use std::path::Path;

use crate::failure::Failure;
use crate::image::Image;
use crate::image::catalog::{BUSYBOX, with_applets};
use crate::lab::load_image;
use crate::node::NodeHandle;
use crate::place::Place;

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";

/// Of these only the shell is used.
const SHELLS: [&str; 2] = [
    "registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
    "registry.k8s.io/e2e-test-images/nginx:1.14-4",
];

/// Brings them into every node of the cluster.
pub fn load(place: &Place, agnhost: &Path) -> Result<(), Failure> {
    let mut tree = with_applets()?;
    tree.file("agnhost", 0o755, agnhost);
    let image = Image {
        names: vec![AGNHOST.to_owned()],
        tree,
        entrypoint: vec!["/agnhost".to_owned()],
        command: vec!["pause".to_owned()],
        ..Image::default()
    };
    load_image(place, "agnhost-image", &image)?;
    for node in super::nodes() {
        let handle = NodeHandle::of(place, node);
        for name in SHELLS {
            handle.name_image(BUSYBOX, name)?;
        }
    }
    Ok(())
}
