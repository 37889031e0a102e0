//! The image of applications that use volumes: Debian's `sqlite3` beside the small programs, one of which is a web server.

use std::path::Path;

use crate::failure::Failure;
use crate::image::Image;
use crate::image::catalog::with_applets;
use crate::image::product::libraries;

/// Its name in the lab.
pub const NAME: &str = "twinshore.io/application:lab";

/// Where Debian's package `sqlite3` has it.
const SQLITE: &str = "/usr/bin/sqlite3";

/// The image.
pub fn image() -> Result<Image, Failure> {
    let program = Path::new(SQLITE);
    if !program.is_file() {
        return Err(Failure::Missing {
            what: format!("{SQLITE} is not there"),
            remedy: "apt-get install sqlite3".to_owned(),
        });
    }
    let mut tree = with_applets()?;
    for library in libraries(program)? {
        tree.file(&library.to_string_lossy(), 0o755, &library);
    }
    tree.file(SQLITE, 0o755, program);
    Ok(Image {
        names: vec![NAME.to_owned()],
        tree,
        command: vec!["sh".to_owned()],
        ..Image::default()
    })
}
