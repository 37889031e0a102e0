//! Is there a worker at all? A command that waits for work to be done says so instead of waiting for ever.

use std::time::{Duration, Instant};

use twinshore_protocol::message::Role;
use twinshore_protocol::status::{SessionStatus, VolumeStatus};

use crate::error::CommandError;

/// How long there may be none: a worker that is restarted comes back within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks for workers in one status after the other.
#[derive(Debug, Default)]
pub struct WorkerWatch {
    none_since: Option<Instant>,
}

impl WorkerWatch {
    /// Fails when there has been no worker for too long.
    pub fn look(&mut self, status: &VolumeStatus, service: &str, now: Instant) -> Result<(), CommandError> {
        if is_any(&status.sessions) {
            self.none_since = None;
            return Ok(());
        }
        let since = *self.none_since.get_or_insert(now);
        if now.saturating_duration_since(since) < PATIENCE {
            return Ok(());
        }
        Err(CommandError::Usage(advice(service)))
    }
}

/// Is a worker connected?
pub fn is_any(sessions: &[SessionStatus]) -> bool {
    sessions
        .iter()
        .any(|session| session.role == Role::Worker && session.connected)
}

/// What to do when there is none.
pub fn advice(service: &str) -> String {
    format!(
        "no worker is connected to the metadata service, so nobody does it: start one with \
         `twinshore worker --metadata {service}`; what was asked for begins when it is there"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use twinshore_protocol::SessionId;
    use twinshore_protocol::message::SessionDescription;

    use super::*;

    fn session(role: Role, connected: bool) -> SessionStatus {
        SessionStatus {
            session: SessionId(1),
            role,
            description: SessionDescription::default(),
            connected,
            silent_seconds: 0,
            open_inodes: 0,
        }
    }

    #[test]
    fn only_a_connected_worker_counts() {
        assert!(is_any(&[
            session(Role::Client, true),
            session(Role::Worker, true)
        ]));
        assert!(!is_any(&[
            session(Role::Client, true),
            session(Role::Worker, false)
        ]));
        assert!(!is_any(&[]));
    }

    #[test]
    fn the_advice_names_the_command_that_helps() {
        let advice = advice("http://10.0.0.1:7700");
        assert!(
            advice.contains("twinshore worker --metadata http://10.0.0.1:7700"),
            "{advice}"
        );
    }
}
