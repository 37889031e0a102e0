//! `twinshore metadata`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use twinshore_metadata::archive::marker::verify_bucket;
use twinshore_metadata::archive::{ArchiveHandle, MarkerError};
use twinshore_metadata::journal::directory::read_volume;
use twinshore_metadata::service::shell::{Ready, ServeOptions, serve};
use twinshore_protocol::session::Transport;
use twinshore_protocol::{Side, VolumeId};
use twinshore_storage::bucket::Bucket;

use super::client::Client;
use crate::arguments::{BucketArguments, MetadataArguments};
use crate::buckets;
use crate::error::CommandError;

/// How long a start waits for a bucket to say whose it is.
const MARKER_PATIENCE: Duration = Duration::from_secs(3);

/// Serves a volume until it is asked to stop.
pub async fn run(arguments: MetadataArguments) -> Result<(), CommandError> {
    let MetadataArguments {
        dir,
        listen,
        tls,
        http,
        buckets,
    } = arguments;
    let tls = tls.files();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let what = format!("serve the volume in {}", dir.display());
    let format = read_volume(&dir).map_err(CommandError::failed(what.clone()))?.ok_or_else(|| {
        CommandError::Usage(format!(
            "there is no volume in {}: make one with `twinshore volume create`, or rebuild it with `twinshore volume restore`",
            dir.display()
        ))
    })?;
    let opened = buckets::open_both(&format.settings, &buckets).await?;
    refuse_foreign_buckets(&opened, format.volume).await?;
    let (ready, is_ready) = oneshot::channel();
    let options = ServeOptions {
        volume: Some(format.volume),
        tls,
        http,
        buckets: opened,
        ready: Some(ready),
        ..ServeOptions::new(dir, listen)
    };
    let announce = async move {
        if let Ok(Ready {
            listen,
            http,
            local,
            archive,
        }) = is_ready.await
        {
            println!("metadata: serving volume {} at {scheme}://{listen}", format.name);
            if let Some(http) = http {
                println!("metadata: http://{http}/metrics and http://{http}/healthz");
            }
            if let Err(error) = follow_buckets(local, archive, &buckets).await {
                tracing::error!(
                    error = crate::error::with_causes(&error),
                    "changed buckets need a restart to be used"
                );
            }
        }
        // The service ends when asked to; that something was announced ends nothing.
        std::future::pending::<()>().await;
    };
    let stop = async {
        tokio::select! {
            biased;
            result = super::asked_to_stop() => {
                if let Err(error) = result {
                    tracing::error!(error = crate::error::with_causes(&error), "stopping");
                }
            }
            () = announce => {}
        }
    };
    // On the heap: the state of the whole service is in this future.
    Box::pin(serve(options, stop))
        .await
        .map_err(CommandError::failed(what))
}

/// A bucket of another volume is a mistake in the arguments: nothing would ever be archived there. What a bucket does not answer
/// soon is left to the archive, which goes on asking: a bucket that is down keeps no service from starting.
async fn refuse_foreign_buckets(
    buckets: &[Option<Arc<dyn Bucket>>; 2],
    volume: VolumeId,
) -> Result<(), CommandError> {
    for (side, bucket) in Side::BOTH.into_iter().zip(buckets) {
        let Some(bucket) = bucket else { continue };
        match timeout(MARKER_PATIENCE, verify_bucket(&**bucket, volume)).await {
            Ok(Err(error @ MarkerError::OtherVolume { .. })) => {
                return Err(CommandError::failed(format!(
                    "use the bucket of the {side} region"
                ))(error));
            }
            Ok(Err(error)) => {
                tracing::warn!(%side, error = crate::error::with_causes(&error), "nothing is archived yet");
            }
            Ok(Ok(())) | Err(_) => {}
        }
    }
    Ok(())
}

/// Gives the archive other buckets when the volume's settings or the credentials change. The service tells this process of
/// its settings as it tells every client: through a session.
async fn follow_buckets(
    local: Arc<dyn Transport>,
    archive: ArchiveHandle,
    arguments: &BucketArguments,
) -> Result<(), CommandError> {
    let (client, formats) = Client::connect_following(local, "archive").await?;
    let mut changes = buckets::Changes::new(formats, arguments.clone());
    while let Some(opened) = changes.next().await {
        for (side, bucket) in Side::BOTH.into_iter().zip(opened) {
            if !archive.replace(side, bucket).await {
                return Ok(());
            }
        }
    }
    client.close().await;
    Ok(())
}
