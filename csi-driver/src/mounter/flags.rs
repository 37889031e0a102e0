//! What a mount process is told: `twinshore mount ...`, from the volume's Secret. Pure.

use std::path::Path;

use twinshore_crds::client_secret::{
    AUTHORITY_KEY, BUCKET_CA_KEY, CERTIFICATE_KEY, CREDENTIALS_KEY, CREDENTIALS2_KEY, PRIVATE_KEY_KEY,
    PartBucket, PartSecret,
};
use twinshore_crds::region::AddressingStyle;

/// How long a mount process waits for a metadata service that is not up. Less than the kubelet's patience with staging (2 min), so
/// that the reason is told.
const WAIT_SERVICE_SECONDS: u32 = 60;

/// Where a mount process finds its things.
#[derive(Clone, Copy, Debug)]
pub struct Directories<'a> {
    /// With the files of the Secret.
    pub secret: &'a Path,
    /// For its disk cache.
    pub cache: &'a Path,
    /// Its logbook.
    pub logbook: &'a Path,
}

/// The arguments.
pub fn arguments(
    secret: &PartSecret,
    node: &str,
    mount_point: &str,
    directories: Directories<'_>,
) -> Vec<String> {
    let config = &secret.config;
    let file = |key: &str| directories.secret.join(key).display().to_string();
    let mut flags = ["mount", "--foreground", "--device-from-stdin"]
        .map(str::to_owned)
        .to_vec();
    let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    add("--logbook", directories.logbook.display().to_string());
    add("--metadata", config.endpoint.clone());
    add("--tls-ca", file(AUTHORITY_KEY));
    add("--tls-cert", file(CERTIFICATE_KEY));
    add("--tls-key", file(PRIVATE_KEY_KEY));
    add("--node", format!("{}/{node}", config.region));
    add("--wait-service", WAIT_SERVICE_SECONDS.to_string());
    add("--buffer-size", format!("{}B", config.memory_bytes));
    if config.cache_bytes > 0 {
        add("--cache-dir", directories.cache.display().to_string());
    }
    add("--cache-size", format!("{}B", config.cache_bytes));
    if secret.credentials.is_some() {
        add("--credentials-file", file(CREDENTIALS_KEY));
    }
    // Also before there is a target: its keys then arrive as a file, without a restart.
    if config.target.is_none() || secret.credentials2.is_some() {
        add("--credentials-file2", file(CREDENTIALS2_KEY));
    }
    if secret.bucket_authorities.is_some() {
        add("--bucket-ca-file", file(BUCKET_CA_KEY));
    }
    // Each cluster may reach the buckets under URLs of its own.
    add("--bucket", config.primary.url.clone());
    add_style(&mut add, &config.primary, "");
    if let Some(target) = &config.target {
        add("--bucket2", target.url.clone());
        add_style(&mut add, target, "2");
    }
    if config.flip {
        flags.push("--flip".to_owned());
    }
    flags.push(mount_point.to_owned());
    flags
}

fn add_style(add: &mut impl FnMut(&str, String), bucket: &PartBucket, suffix: &str) {
    if let Some(region) = &bucket.signing_region {
        add(&format!("--signing-region{suffix}"), region.clone());
    }
    let style = match bucket.addressing_style {
        AddressingStyle::Auto => return,
        AddressingStyle::Path => "path",
        AddressingStyle::VirtualHost => "virtual-host",
    };
    add(&format!("--addressing-style{suffix}"), style.to_owned());
}

#[cfg(test)]
mod tests {
    use twinshore_crds::client_secret::PartConfig;

    use super::*;

    fn bucket(region: &str) -> PartBucket {
        PartBucket {
            region: region.to_owned(),
            url: format!("http://s3.{region}/documents"),
            signing_region: None,
            addressing_style: AddressingStyle::Path,
        }
    }

    fn secret(flip: bool, cache_bytes: u64) -> PartSecret {
        PartSecret {
            config: PartConfig {
                volume_id: "6f1c".to_owned(),
                volume: "documents".to_owned(),
                endpoint: "https://service:7700".to_owned(),
                region: "west".to_owned(),
                flip,
                primary: bucket("east"),
                target: flip.then(|| bucket("west")),
                cache_bytes,
                memory_bytes: 1000,
            },
            credentials: Some("secret_key=hunter2".to_owned()),
            credentials2: None,
            bucket_authorities: None,
            authority: String::new(),
            certificate: String::new(),
            private_key: "hunter2".to_owned(),
        }
    }

    fn line(secret: &PartSecret) -> String {
        let directories = Directories {
            secret: Path::new("/run/s"),
            cache: Path::new("/cache/c"),
            logbook: Path::new("/proc/1/fd/9"),
        };
        arguments(secret, "node-1", "/mnt", directories).join(" ")
    }

    #[test]
    fn the_target_region_mounts_flipped_with_both_buckets_and_no_secret_is_an_argument() {
        let line = line(&secret(true, 5));
        for part in [
            "mount --foreground --device-from-stdin --logbook /proc/1/fd/9 --metadata https://service:7700 --tls-ca /run/s/ca.crt",
            "--node west/node-1",
            "--buffer-size 1000B --cache-dir /cache/c --cache-size 5B --credentials-file /run/s/credentials --bucket http://s3.east/documents",
            "--bucket2 http://s3.west/documents --addressing-style2 path --flip /mnt",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("hunter2") && !line.contains("--credentials-file2"));
    }

    #[test]
    fn without_a_target_its_keys_are_looked_for_and_without_a_cache_there_is_no_directory() {
        let line = line(&secret(false, 0));
        assert!(line.contains("--credentials-file2 /run/s/credentials2"));
        assert!(!line.contains("--flip") && !line.contains("--cache-dir") && !line.contains("--bucket2"));
    }
}
