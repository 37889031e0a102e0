//! The Container Storage Interface, generated from the vendored specification (`proto/`), and the kubelet's registration of plugins.
//!
//! Requests that carry secrets show nothing of themselves in `Debug` output: log their identifiers instead.

/// `csi.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod csi {
    include!(concat!(env!("OUT_DIR"), "/csi.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
}

/// `pluginregistration`.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod registration {
    include!(concat!(env!("OUT_DIR"), "/pluginregistration.rs"));
}

#[cfg(test)]
mod tests {
    use super::csi::CreateVolumeRequest;

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let request = CreateVolumeRequest {
            secrets: [("key".to_owned(), "hunter2".to_owned())].into(),
            ..CreateVolumeRequest::default()
        };
        assert!(!format!("{request:?}").contains("hunter2"));
    }
}
