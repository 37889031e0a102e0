//! What the life of each role's process has in common.

use std::error::Error as StdError;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Why a process ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no API server.
    #[error("cannot find the API server: run it in a pod, or set KUBECONFIG")]
    Client(#[source] kube::Error),
    /// Something of the system.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server ended.
    #[error("cannot serve")]
    Serve(#[source] tonic::transport::Error),
    /// The kubelet does not work with this plugin. It asks once only: the process has to start anew.
    #[error("the kubelet refuses this plugin: {0}")]
    Refused(String),
}

impl RunError {
    /// For `map_err`.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Ends when the process is asked to: `SIGTERM` or Ctrl-C.
pub async fn asked_to_stop() -> Result<(), RunError> {
    let listen = |kind| signal(kind).map_err(RunError::io("listen for signals"));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// An error with its causes, for the log.
pub fn explain(error: &dyn StdError) -> String {
    crate::error::with_causes(error)
}
