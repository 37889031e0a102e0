//! Compiles the interface without `protoc`. Messages that hold secrets get no `Debug` from prost: `lib.rs` gives them one that shows none.

use std::fmt::Write as _;

use prost_types::FileDescriptorSet;

/// The field that the specification gives secrets in.
const SECRETS: &str = "secrets";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["csi.proto", "pluginregistration.proto"], ["proto"])?;
    let secret = messages_with_secrets(&descriptors);
    let paths: Vec<String> = secret.iter().map(|name| format!(".csi.v1.{name}")).collect();
    tonic_prost_build::configure()
        .skip_debug(paths)
        .compile_fds(descriptors)?;
    let mut implementations = String::new();
    for name in secret {
        write!(
            implementations,
            "impl ::core::fmt::Debug for {name} {{\n    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
             f.write_str(\"{name} {{ .. }}\")\n    }}\n}}\n"
        )?;
    }
    let directory = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(directory.join("redacted.rs"), implementations)?;
    Ok(())
}

fn messages_with_secrets(descriptors: &FileDescriptorSet) -> Vec<String> {
    descriptors
        .file
        .iter()
        .filter(|file| file.package() == "csi.v1")
        .flat_map(|file| &file.message_type)
        .filter(|message| message.field.iter().any(|field| field.name() == SECRETS))
        .map(|message| message.name().to_owned())
        .collect()
}
