//! What clients did to shared registers, and whether what they read can be true.
//!
//! A register is a file that is replaced as a whole by `rename`. A write is acknowledged when the rename has returned; one
//! that failed may have happened, may happen later, or never. A read must return a write that had begun when the read
//! ended, and must not return one that was certainly overwritten before the read began: neither by an acknowledged write
//! nor by one that somebody has already read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The number of a write, unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteNumber(pub u64);

#[derive(Clone, Copy, Debug)]
struct Write {
    started: Instant,
    acknowledged: Option<Instant>,
    /// When a read that returned it ended, the first time.
    witnessed: Option<Instant>,
}

impl Write {
    /// From when on nobody may overlook it.
    fn visible(&self) -> Option<Instant> {
        match (self.acknowledged, self.witnessed) {
            (Some(acknowledged), Some(witnessed)) => Some(acknowledged.min(witnessed)),
            (acknowledged, witnessed) => acknowledged.or(witnessed),
        }
    }
}

#[derive(Default)]
struct State {
    next: u64,
    registers: BTreeMap<u64, BTreeMap<WriteNumber, Write>>,
}

/// The history of all registers. Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<State>>);

impl History {
    /// A write begins.
    pub fn begin(&self, register: u64) -> WriteNumber {
        let mut state = self.state();
        state.next += 1;
        let number = WriteNumber(state.next);
        let write = Write {
            started: Instant::now(),
            acknowledged: None,
            witnessed: None,
        };
        state.registers.entry(register).or_default().insert(number, write);
        number
    }

    /// A write was acknowledged.
    pub fn acknowledge(&self, register: u64, number: WriteNumber) {
        if let Some(write) = self
            .state()
            .registers
            .entry(register)
            .or_default()
            .get_mut(&number)
        {
            write.acknowledged = Some(Instant::now());
        }
    }

    /// A read that began at `started` returned this write, or that there is nothing. `Err` says why that cannot be.
    pub fn read(&self, register: u64, started: Instant, found: Option<WriteNumber>) -> Result<(), String> {
        let now = Instant::now();
        let mut state = self.state();
        let writes = state.registers.entry(register).or_default();
        let certain = |write: &&Write| write.visible().is_some_and(|visible| visible < started);
        let Some(found) = found else {
            return match writes.iter().find(|(_, write)| certain(write)) {
                Some((number, _)) => Err(format!(
                    "register {register} was empty although {number:?} was visible before"
                )),
                None => Ok(()),
            };
        };
        let Some(read) = writes.get(&found).copied() else {
            return Err(format!(
                "register {register} returned {found:?}, which nobody wrote"
            ));
        };
        if let Some(acknowledged) = read.acknowledged {
            let overwriting = |write: &Write| {
                write.started > acknowledged && write.visible().is_some_and(|visible| visible < started)
            };
            if let Some((newer, _)) = writes.iter().find(|(_, write)| overwriting(write)) {
                return Err(format!(
                    "register {register} returned {found:?}, which {newer:?} had overwritten before the read began"
                ));
            }
        }
        if let Some(write) = writes.get_mut(&found) {
            write.witnessed.get_or_insert(now);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::time::Duration;

    use super::*;

    async fn pass() {
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_overwritten_value_is_stale_but_a_concurrent_one_is_not() {
        let history = History::default();
        let first = history.begin(1);
        pass().await;
        history.acknowledge(1, first);
        pass().await;
        let second = history.begin(1);
        let early = Instant::now();
        pass().await;
        history.acknowledge(1, second);
        pass().await;
        assert!(
            history.read(1, early, Some(first)).is_ok(),
            "the read began before the second write was acknowledged"
        );
        assert!(history.read(1, Instant::now(), Some(second)).is_ok());
        assert!(history.read(1, Instant::now(), Some(first)).is_err());
        assert!(history.read(1, Instant::now(), None).is_err());
        assert!(history.read(1, Instant::now(), Some(WriteNumber(99))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_that_was_read_once_must_stay() {
        let history = History::default();
        let first = history.begin(1);
        history.acknowledge(1, first);
        pass().await;
        let unknown = history.begin(1);
        pass().await;
        assert!(history.read(1, Instant::now(), Some(unknown)).is_ok());
        pass().await;
        assert!(history.read(1, Instant::now(), Some(first)).is_err());
    }
}
