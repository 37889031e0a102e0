//! `twinshore metadata`.

use tokio::sync::oneshot;
use twinshore_metadata::journal::directory::read_volume;
use twinshore_metadata::service::shell::{Addresses, ServeOptions, serve};

use crate::arguments::MetadataArguments;
use crate::buckets;
use crate::error::CommandError;

/// Serves a volume until it is asked to stop.
pub async fn run(arguments: MetadataArguments) -> Result<(), CommandError> {
    let MetadataArguments { dir, listen, http, buckets } = arguments;
    let what = format!("serve the volume in {}", dir.display());
    let format = read_volume(&dir).map_err(CommandError::failed(what.clone()))?.ok_or_else(|| {
        CommandError::Usage(format!(
            "there is no volume in {}: make one with `twinshore volume create`, or rebuild it with `twinshore volume restore`",
            dir.display()
        ))
    })?;
    let (ready, is_ready) = oneshot::channel();
    let options = ServeOptions {
        volume: Some(format.volume),
        http,
        buckets: buckets::open_both(&format.settings, &buckets).await?,
        ready: Some(ready),
        ..ServeOptions::new(dir, listen)
    };
    let announce = async move {
        if let Ok(Addresses { listen, http }) = is_ready.await {
            println!("metadata: serving volume {} at http://{listen}", format.name);
            if let Some(http) = http {
                println!("metadata: http://{http}/metrics and http://{http}/healthz");
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
    serve(options, stop).await.map_err(CommandError::failed(what))
}
