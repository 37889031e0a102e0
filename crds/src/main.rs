//! Prints the resource definition, or writes it to where the chart has it: `cargo xtask crds`.

use std::path::Path;
use std::process::ExitCode;

use twinshore_crds::yaml;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1) {
        None => yaml::render()
            .map(|text| print!("{text}"))
            .map_err(|error| error.to_string()),
        Some(path) => write(Path::new(&path)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("twinshore-crds: {message}");
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path) -> Result<(), String> {
    let text = yaml::render().map_err(|error| error.to_string())?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
