//! Images that the clusters need, under the names that manifests and charts give them, so that these work unchanged. The programs in them are built
//! of the same sources; the images are ours.

use std::path::{Path, PathBuf};

use crate::command::Run;
use crate::failure::Failure;
use crate::image::product::libraries;
use crate::image::{Image, Tree, write};
use crate::place::Place;

/// What the containers of a pod share the namespaces of. Containerd is told this name.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

/// Small programs, for tests.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35";

/// The cluster's DNS.
pub const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.13.1";

/// What makes snapshots of Kubernetes known to drivers.
pub const SNAPSHOT_CONTROLLER: &str = "registry.k8s.io/sig-storage/snapshot-controller:v8.4.0";

/// Programs that are alone in their images, as `/NAME`.
const SINGLE_PROGRAMS: [(&str, &str); 5] = [
    ("coredns", COREDNS),
    (
        "csi-provisioner",
        "registry.k8s.io/sig-storage/csi-provisioner:v5.3.0",
    ),
    ("csi-resizer", "registry.k8s.io/sig-storage/csi-resizer:v1.14.0"),
    (
        "csi-snapshotter",
        "registry.k8s.io/sig-storage/csi-snapshotter:v8.4.0",
    ),
    ("snapshot-controller", SNAPSHOT_CONTROLLER),
];

/// Where Debian's `busybox-static` is.
const BUSYBOX_PROGRAM: &str = "/bin/busybox";

/// Makes the archives that are not there, in the directory that goes with the programs. Those of all images.
pub fn ensure(place: &Place) -> Result<Vec<PathBuf>, Failure> {
    let directory = place.images()?;
    let programs = place.programs()?;
    let mut archives = Vec::new();
    let mut archive = |name: &str, image: &dyn Fn() -> Result<Image, Failure>| {
        let path = directory.join(format!("{name}.tar"));
        if !path.exists() {
            write(&image()?, &path)?;
        }
        archives.push(path);
        Ok::<(), Failure>(())
    };
    archive("pause", &pause)?;
    archive("busybox", &busybox)?;
    for (program, name) in SINGLE_PROGRAMS {
        let binary = programs.join(program);
        if binary.exists() {
            archive(program, &|| Ok(single(program, name, &binary)))?;
        }
    }
    Ok(archives)
}

fn with_busybox() -> Result<Tree, Failure> {
    let mut tree = Tree::base();
    // None, if it is the static one.
    for library in libraries(Path::new(BUSYBOX_PROGRAM))? {
        tree.file(&library.to_string_lossy(), 0o755, &library);
    }
    tree.file("bin/busybox", 0o755, Path::new(BUSYBOX_PROGRAM));
    Ok(tree)
}

/// It only has to be there: containerd ends it with SIGKILL. It reaps nothing, so processes that pods with a shared process namespace
/// orphan stay as zombies until the pod ends.
fn pause() -> Result<Image, Failure> {
    let seconds = i32::MAX.to_string();
    Ok(Image {
        names: vec![PAUSE.to_owned()],
        tree: with_busybox()?,
        entrypoint: ["/bin/busybox", "sleep", &seconds].map(str::to_owned).to_vec(),
        command: Vec::new(),
        user: "65535:65535".to_owned(),
    })
}

/// The same under all the names that it answers to.
pub fn with_applets() -> Result<Tree, Failure> {
    let mut tree = with_busybox()?;
    let applets = Run::new(BUSYBOX_PROGRAM, ["--list"]).output()?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tree.link(&format!("bin/{applet}"), "busybox");
    }
    Ok(tree)
}

fn busybox() -> Result<Image, Failure> {
    Ok(Image {
        names: vec![BUSYBOX.to_owned()],
        tree: with_applets()?,
        command: vec!["sh".to_owned()],
        ..Image::default()
    })
}

fn single(program: &str, name: &str, binary: &Path) -> Image {
    let mut tree = Tree::base();
    tree.file(program, 0o755, binary);
    Image {
        names: vec![name.to_owned()],
        tree,
        entrypoint: vec![format!("/{program}")],
        ..Image::default()
    }
}
