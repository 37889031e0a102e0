//! System calls that may hang, with a limit: on a thread of their own, which is left behind when the limit passes.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

/// Runs a call; `TimedOut` if it takes longer than `limit`.
pub fn call<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("limited-call".to_owned())
        .spawn(move || {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(body());
        })?;
    receiver
        .recv_timeout(limit)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_call_that_hangs_times_out() {
        let (_keep, never) = mpsc::channel::<()>();
        let result = call(Duration::from_millis(20), move || {
            never.recv().map_err(io::Error::other)
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(call(Duration::from_mins(1), || Ok(7)).unwrap(), 7);
    }
}
