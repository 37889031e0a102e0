//! The files of the pages, which are part of the program: nothing is read from a disk, and no path leads anywhere else.

use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

macro_rules! assets {
    ($($name:literal: $kind:literal),+ $(,)?) => {
        /// Name, kind and content.
        const ASSETS: &[(&str, &str, &str)] = &[
            $(($name, $kind, include_str!(concat!("../../../console/", $name)))),+
        ];
    };
}

assets! {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "api.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
    "replication.js": "text/javascript; charset=utf-8",
    "volume.js": "text/javascript; charset=utf-8",
}

/// A file, or that there is none.
pub async fn serve(uri: Uri) -> Response {
    let name = match uri.path() {
        "/" => "index.html",
        path => path.trim_start_matches('/'),
    };
    match ASSETS.iter().find(|(asset, ..)| *asset == name) {
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_console_is_served() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../console");
        let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<String> = files
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let mut served: Vec<&str> = ASSETS.iter().map(|(name, ..)| *name).collect();
        served.sort_unstable();
        assert_eq!(names, served);
    }

    #[test]
    fn pages_load_nothing_from_elsewhere() {
        for (name, _, content) in ASSETS {
            for elsewhere in [
                "src=\"http",
                "href=\"http",
                "url(",
                "import(\"http",
                "from \"http",
            ] {
                assert!(!content.contains(elsewhere), "{name} has {elsewhere}");
            }
        }
    }
}
