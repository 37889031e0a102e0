//! What happened, as a digest: the same seed must give the same one.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// How many of the last events are kept to be shown when an invariant breaks.
const KEPT_EVENTS: usize = 2000;

/// The trace of one run. Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    started: Instant,
    state: Arc<Mutex<State>>,
}

struct State {
    hasher: Sha256,
    last: std::collections::VecDeque<String>,
    events: u64,
}

impl Trace {
    /// A new trace; the run starts now.
    pub fn new() -> Self {
        let state = State {
            hasher: Sha256::new(),
            last: std::collections::VecDeque::new(),
            events: 0,
        };
        Self {
            started: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records an event of an actor at the present simulated time.
    pub fn event(&self, actor: &str, what: &str) {
        let line = format!("{:>9.3} {actor}: {what}", self.started.elapsed().as_secs_f64());
        let mut state = self.state();
        state.hasher.update(line.as_bytes());
        state.hasher.update(b"\n");
        state.events += 1;
        if state.last.len() == KEPT_EVENTS {
            state.last.pop_front();
        }
        state.last.push_back(line);
    }

    /// The digest of all events so far, in hexadecimal.
    pub fn digest(&self) -> String {
        let digest = self.state().hasher.clone().finalize();
        digest.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The last events, for a person who looks for the cause.
    pub fn tail(&self) -> Vec<String> {
        self.state().last.iter().cloned().collect()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.state().events
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
