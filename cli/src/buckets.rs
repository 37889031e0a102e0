//! The buckets as this process reaches them: from the volume's format record, the command line, and credentials that can
//! change while it runs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use twinshore_protocol::Side;
use twinshore_protocol::format::{VolumeFormat, VolumeSettings};
use twinshore_storage::bucket::Bucket;
use twinshore_storage::check;
use twinshore_storage::location::{self, BucketLocation, Credentials, OpenOptions};
use twinshore_storage::pair::{BucketPair, PairOptions};

use crate::arguments::{AddressingStyle, BucketArguments, CredentialArguments};
use crate::error::CommandError;

/// How often credential files are looked at: new keys are in use within seconds.
const CREDENTIALS_POLL: Duration = Duration::from_secs(2);

/// Refuses a volume whose regions share a bucket.
pub fn check_different(settings: &VolumeSettings) -> Result<(), CommandError> {
    let Some(target) = &settings.target else {
        return Ok(());
    };
    let primary = parse(&settings.primary.bucket)?;
    if primary.overlaps(&parse(&target.bucket)?) {
        return Err(CommandError::Usage(format!(
            "both regions are given the same bucket, {primary}: each needs one of its own, or nothing is replicated"
        )));
    }
    if settings.primary.name == target.name {
        return Err(CommandError::Usage(format!(
            "both regions are named `{}`: give each its own name",
            target.name
        )));
    }
    Ok(())
}

/// Opens the buckets of a volume that is to be created, and checks that both can be used and are two.
pub async fn open_and_check(
    settings: &VolumeSettings,
    credentials: &CredentialArguments,
) -> Result<[Option<Arc<dyn Bucket>>; 2], CommandError> {
    let primary = open_side(settings, Side::Primary, credentials, None).await?;
    let target = open_side(settings, Side::Target, credentials, None).await?;
    for (side, bucket) in [(Side::Primary, &primary), (Side::Target, &target)] {
        if let Some(bucket) = bucket {
            check(&**bucket, side).await?;
        }
    }
    if let (Some(primary), Some(target)) = (&primary, &target) {
        let same = check::are_the_same(&**primary, &**target, &uuid::Uuid::new_v4().to_string())
            .await
            .map_err(CommandError::failed("see whether the two buckets are two"))?;
        if same {
            return Err(CommandError::Usage(
                "both regions are given the same bucket under two names: each needs one of its own, or nothing is \
                 replicated"
                    .to_owned(),
            ));
        }
    }
    Ok([primary, target])
}

/// Checks that a bucket can be used: that it exists, and that the credentials allow to store, read, list and delete.
pub async fn check(bucket: &dyn Bucket, side: Side) -> Result<(), CommandError> {
    check::check(bucket, &uuid::Uuid::new_v4().to_string())
        .await
        .map_err(CommandError::failed(format!(
            "use the bucket of the {side} region"
        )))
}

/// Opens the bucket of a side and checks that it can be used; `None` if the volume has no such side.
pub async fn open_side(
    settings: &VolumeSettings,
    side: Side,
    credentials: &CredentialArguments,
    instead: Option<&str>,
) -> Result<Option<Arc<dyn Bucket>>, CommandError> {
    match (settings.region(side), instead) {
        // Given for the day when the volume has this side: until then nothing may be stored there.
        (None, _) => Ok(None),
        (Some(_), Some(url)) => open_url(url, side, credentials).await.map(Some),
        (Some(region), None) => open_url(&region.bucket, side, credentials).await.map(Some),
    }
}

/// Opens a bucket with the credentials of a side. For an S3 store nothing is asked yet.
pub async fn open_url(
    url: &str,
    side: Side,
    credentials: &CredentialArguments,
) -> Result<Arc<dyn Bucket>, CommandError> {
    let (region, style) = match side {
        Side::Primary => (None, credentials.addressing_style),
        Side::Target => (credentials.signing_region2.clone(), credentials.addressing_style2),
    };
    let options = OpenOptions {
        region: Some(region.unwrap_or_else(|| credentials.signing_region.clone())),
        path_style: style.map(|style| style == AddressingStyle::Path),
        certificate_authorities: credentials.bucket_ca_file.clone(),
    };
    location::open(&parse(url)?, &side_credentials(credentials, side)?, &options)
        .await
        .map_err(CommandError::failed(format!(
            "open the bucket {url} of the {side} region"
        )))
}

fn parse(url: &str) -> Result<BucketLocation, CommandError> {
    url.parse()
        .map_err(CommandError::failed(format!("use the bucket {url}")))
}

/// The credentials of a side: from its file if one is given, else from arguments and environment.
fn side_credentials(arguments: &CredentialArguments, side: Side) -> Result<Credentials, CommandError> {
    let (file, access_key, secret_key, session_token) = match side {
        Side::Primary => (
            &arguments.credentials_file,
            &arguments.access_key,
            &arguments.secret_key,
            &arguments.session_token,
        ),
        Side::Target => (
            &arguments.credentials_file2,
            &arguments.access_key2,
            &arguments.secret_key2,
            &arguments.session_token2,
        ),
    };
    match file {
        Some(file) => read_credentials(file),
        None => Ok(Credentials {
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
            session_token: session_token.clone(),
        }),
    }
}

fn read_credentials(file: &Path) -> Result<Credentials, CommandError> {
    let what = || format!("read the credentials file {}", file.display());
    let text = std::fs::read_to_string(file).map_err(CommandError::failed(what()))?;
    parse_credentials(&text).map_err(|reason| CommandError::Usage(format!("cannot {}: {reason}", what())))
}

fn parse_credentials(text: &str) -> Result<Credentials, String> {
    let mut credentials = Credentials::default();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (key, value) = line
            .split_once('=')
            .ok_or("expected lines such as access_key=..., secret_key=...".to_owned())?;
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "access_key" => credentials.access_key = value,
            "secret_key" => credentials.secret_key = value,
            "session_token" => credentials.session_token = value,
            other => {
                return Err(format!(
                    "`{other}` is none of access_key, secret_key, session_token"
                ));
            }
        }
    }
    Ok(credentials)
}

/// Opens both buckets of a volume as seen from one side.
pub async fn open_pair(
    format: &VolumeFormat,
    near: Side,
    arguments: &BucketArguments,
    memory_bytes: u64,
) -> Result<BucketPair, CommandError> {
    let options = PairOptions {
        read_memory_bytes: memory_bytes,
        ..PairOptions::default()
    };
    let [primary, target] = open_both(&format.settings, arguments).await?;
    Ok(BucketPair::new(near, primary, target, options))
}

/// Opens both buckets of a volume.
pub async fn open_both(
    settings: &VolumeSettings,
    arguments: &BucketArguments,
) -> Result<[Option<Arc<dyn Bucket>>; 2], CommandError> {
    let credentials = &arguments.credentials;
    Ok([
        open_side(settings, Side::Primary, credentials, arguments.bucket.as_deref()).await?,
        open_side(settings, Side::Target, credentials, arguments.bucket2.as_deref()).await?,
    ])
}

/// Tells when the volume's settings or a credentials file have changed, with the buckets as they are then.
pub struct Changes {
    formats: watch::Receiver<VolumeFormat>,
    arguments: BucketArguments,
    polls: tokio::time::Interval,
    known: [Option<SystemTime>; 2],
}

impl Changes {
    /// Changes from now on.
    pub fn new(formats: watch::Receiver<VolumeFormat>, arguments: BucketArguments) -> Self {
        let known = file_times(&arguments.credentials);
        Self {
            formats,
            arguments,
            polls: tokio::time::interval(CREDENTIALS_POLL),
            known,
        }
    }

    /// The buckets after the next change that can be used; `None` when nobody tells of settings any more.
    pub async fn next(&mut self) -> Option<[Option<Arc<dyn Bucket>>; 2]> {
        loop {
            tokio::select! {
                biased;
                changed = self.formats.changed() => changed.ok()?,
                _ = self.polls.tick() => {
                    let now = file_times(&self.arguments.credentials);
                    if now == self.known {
                        continue;
                    }
                    self.known = now;
                }
            }
            let settings = self.formats.borrow_and_update().settings.clone();
            match open_both(&settings, &self.arguments).await {
                Ok(buckets) => {
                    tracing::info!("the settings of the volume or the credentials have changed");
                    return Some(buckets);
                }
                // The old ones go on being used: they may still be right.
                Err(error) => {
                    tracing::error!(
                        error = crate::error::with_causes(&error),
                        "the new buckets cannot be used"
                    );
                }
            }
        }
    }
}

/// Replaces the buckets of a pair whenever they change. Runs until it is dropped.
pub async fn follow(pair: BucketPair, arguments: BucketArguments, formats: watch::Receiver<VolumeFormat>) {
    let mut changes = Changes::new(formats, arguments);
    while let Some(buckets) = changes.next().await {
        for (side, bucket) in Side::BOTH.into_iter().zip(buckets) {
            pair.replace(side, bucket);
        }
    }
}

fn file_times(credentials: &CredentialArguments) -> [Option<SystemTime>; 2] {
    [&credentials.credentials_file, &credentials.credentials_file2].map(|file| {
        file.as_ref()
            .and_then(|file| std::fs::metadata(file).ok()?.modified().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_has_one_value_a_line() {
        let parsed = parse_credentials("# keys\naccess_key = AK\nsecret_key=a=b\n\n").unwrap_or_default();
        assert_eq!(parsed.access_key.as_deref(), Some("AK"));
        assert_eq!(parsed.secret_key.as_deref(), Some("a=b"));
        assert!(parse_credentials("password=x").is_err());
        assert!(parse_credentials("nonsense").is_err());
    }
}
