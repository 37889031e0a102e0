//! System calls that may hang: a mount whose process hangs must not hang the plugin, and with it the kubelet.

use std::io;
use std::time::Duration;

use crate::error::CallError;

/// How long a look at a mount may take: shorter than the kubelet's patience with a call (2 min), longer than a line that is
/// cut and healed.
pub const LOOK_LIMIT: Duration = Duration::from_secs(15);

/// How long mount(2) and umount(2) may take.
pub const MOUNT_LIMIT: Duration = Duration::from_secs(30);

/// Runs a call on a thread of its own, which is left behind when the limit passes.
pub async fn call<T: Send + 'static>(
    what: impl Into<String>,
    limit: Duration,
    body: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CallError> {
    let what = what.into();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("limited-call".to_owned())
        .spawn(move || {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(body());
        })
        .map_err(CallError::system("start a thread"))?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(result)) => result.map_err(CallError::system(what)),
        Ok(Err(_)) => Err(CallError::System {
            what,
            source: io::Error::other("the thread has panicked"),
        }),
        Err(_) => Err(CallError::Slow(format!(
            "cannot {what}: no answer within {} s",
            limit.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up() {
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let result = call("look", Duration::from_millis(20), move || {
            never.recv().map_err(io::Error::other)
        });
        assert!(matches!(result.await, Err(CallError::Slow(_))));
        assert_eq!(call("look", LOOK_LIMIT, || Ok(7)).await.unwrap(), 7);
    }
}
