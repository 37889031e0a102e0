//! What clients did to shared registers, and whether what they read can be true.
//!
//! A register is a file that is replaced as a whole by `rename`, or one sector of a file that is overwritten in place. A
//! write is acknowledged when the rename, `fsync` or `close` has returned; one that failed may have happened, may happen
//! later, or never. A read must return a write that had begun when the read ended, and must not return one that was
//! certainly overwritten before the read began: neither by an acknowledged write, nor by one that was read on the same mount
//! before, nor by one that any other mount has read so long ago that all leases of that time have ended. (While a write waits
//! for those who cache what it replaces, some see the new and some the old. On its own mount it is seen before it is durable,
//! and may yet fail; until it is settled it covers there what others write at the same time.)
//!
//! What is written under a lock is held to more: see [`Chain`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The number of a write, unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteNumber(pub u64);

/// Who writes and reads: a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountNumber(pub u64);

/// So long after a write has taken effect nobody may be shown what was there before, whatever became of its writer: leases
/// have ended, and the kernels' caches with them.
const LEASES_END: Duration = Duration::from_secs(12);

/// So long after its own write was acknowledged a mount may show it in place of a younger one that was made at the same time:
/// its kernel is still being told.
const SETTLES: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Write {
    writer: MountNumber,
    started: Instant,
    acknowledged: Option<Instant>,
    /// When a read that returned it ended, the first time on each mount but its own.
    witnessed: BTreeMap<MountNumber, Instant>,
}

impl Write {
    fn new(writer: MountNumber) -> Self {
        Self {
            writer,
            started: Instant::now(),
            acknowledged: None,
            witnessed: BTreeMap::new(),
        }
    }

    /// By when it had certainly taken effect.
    fn in_effect(&self) -> Option<Instant> {
        self.acknowledged
            .into_iter()
            .chain(self.witnessed.values().copied())
            .min()
    }

    /// From when on a mount may not overlook it.
    fn visible(&self, reader: MountNumber) -> Option<Instant> {
        let by_others = self.witnessed.values().min().map(|first| *first + LEASES_END);
        self.acknowledged
            .into_iter()
            .chain(self.witnessed.get(&reader).copied())
            .chain(by_others)
            .min()
    }
}

#[derive(Default)]
struct State {
    next: u64,
    registers: BTreeMap<u64, BTreeMap<WriteNumber, Write>>,
    chains: BTreeMap<u64, Chain>,
}

/// What was written under the lock of a file.
///
/// Each update replaces what its writer has read under the same lock, so the updates that took effect are a chain. A writer
/// whose update failed may find out later that it did take effect, but only as the next link: once somebody else has got
/// the lock and seen that it did not, it never may. An update that was acknowledged must be a link.
#[derive(Default)]
struct Chain {
    /// The last link that is known, `None` for the empty file, and those before it.
    head: Option<WriteNumber>,
    links: BTreeSet<WriteNumber>,
    replaces: BTreeMap<WriteNumber, Option<WriteNumber>>,
    acknowledged: BTreeSet<WriteNumber>,
}

impl Chain {
    /// This update has taken effect.
    fn extend(&mut self, number: WriteNumber) -> Result<(), String> {
        if self.links.contains(&number) {
            return Ok(());
        }
        match self.replaces.get(&number) {
            None => Err(format!("{number:?}, which nobody wrote")),
            Some(replaced) if *replaced == self.head => {
                self.links.insert(number);
                self.head = Some(number);
                Ok(())
            }
            Some(replaced) => Err(format!(
                "{number:?}, which replaces {replaced:?} although {:?} had taken effect",
                self.head
            )),
        }
    }
}

/// The history of all registers. Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<State>>);

impl History {
    /// A number for a write that is checked otherwise.
    pub fn number(&self) -> WriteNumber {
        let mut state = self.state();
        state.next += 1;
        WriteNumber(state.next)
    }

    /// A write to some registers begins.
    pub fn begin(&self, registers: Range<u64>, writer: MountNumber) -> WriteNumber {
        let number = self.number();
        let mut state = self.state();
        for register in registers {
            let known = state.registers.entry(register).or_default();
            known.insert(number, Write::new(writer));
        }
        number
    }

    /// A write was acknowledged.
    pub fn acknowledge(&self, registers: Range<u64>, number: WriteNumber) {
        let mut state = self.state();
        for register in registers {
            if let Some(write) = state.registers.entry(register).or_default().get_mut(&number) {
                write.acknowledged = Some(Instant::now());
            }
        }
    }

    /// A read that began at `started` returned this write, or that there is nothing. `Err` says why that cannot be.
    pub fn read(
        &self,
        register: u64,
        reader: MountNumber,
        started: Instant,
        found: Option<WriteNumber>,
    ) -> Result<(), String> {
        let now = Instant::now();
        let mut state = self.state();
        let writes = state.registers.entry(register).or_default();
        let certain = |write: &&Write| write.visible(reader).is_some_and(|visible| visible < started);
        let Some(found) = found else {
            return match writes.iter().find(|(_, write)| certain(write)) {
                Some((number, _)) => Err(format!(
                    "register {register} was empty although {number:?} was visible before"
                )),
                None => Ok(()),
            };
        };
        let Some(read) = writes.get(&found) else {
            return Err(format!(
                "register {register} returned {found:?}, which nobody wrote"
            ));
        };
        let settled = read.writer != reader
            || read
                .acknowledged
                .is_some_and(|acknowledged| acknowledged + SETTLES < started);
        if let Some(in_effect) = read.in_effect().filter(|_| settled) {
            let overwriting = |write: &Write| {
                write.started > in_effect && write.visible(reader).is_some_and(|visible| visible < started)
            };
            if let Some((newer, _)) = writes.iter().find(|(_, write)| overwriting(write)) {
                return Err(format!(
                    "register {register} returned {found:?}, which {newer:?} had overwritten before the read began"
                ));
            }
        }
        if let Some(write) = writes.get_mut(&found)
            && write.writer != reader
        {
            write.witnessed.entry(reader).or_insert(now);
        }
        Ok(())
    }

    /// Somebody who has the lock of a file read this, or that it is empty.
    pub fn read_locked(&self, file: u64, found: Option<WriteNumber>) -> Result<(), String> {
        let mut state = self.state();
        let chain = state.chains.entry(file).or_default();
        match found {
            _ if found == chain.head => Ok(()),
            Some(number) if !chain.links.contains(&number) => chain.extend(number),
            older => Err(format!("{older:?} although {:?} had taken effect", chain.head)),
        }
        .map_err(|reason| format!("locked file {file} holds {reason}"))
    }

    /// Who has the lock and has read `replaced` writes something new.
    pub fn begin_locked(&self, file: u64, replaced: Option<WriteNumber>) -> WriteNumber {
        let number = self.number();
        let mut state = self.state();
        state
            .chains
            .entry(file)
            .or_default()
            .replaces
            .insert(number, replaced);
        number
    }

    /// Was this update of a locked file acknowledged?
    pub fn is_acknowledged(&self, file: u64, number: WriteNumber) -> bool {
        self.state()
            .chains
            .get(&file)
            .is_some_and(|chain| chain.acknowledged.contains(&number))
    }

    /// It was acknowledged.
    pub fn acknowledge_locked(&self, file: u64, number: WriteNumber) -> Result<(), String> {
        let mut state = self.state();
        let chain = state.chains.entry(file).or_default();
        chain.acknowledged.insert(number);
        chain
            .extend(number)
            .map_err(|reason| format!("in the locked file {file} was acknowledged {reason}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const HERE: MountNumber = MountNumber(1);
    const THERE: MountNumber = MountNumber(2);

    async fn pass() {
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_overwritten_value_is_stale_but_a_concurrent_one_is_not() {
        let history = History::default();
        let read = |started, found| history.read(1, THERE, started, found);
        let first = history.begin(1..2, HERE);
        pass().await;
        history.acknowledge(1..2, first);
        pass().await;
        let second = history.begin(1..2, HERE);
        let early = Instant::now();
        pass().await;
        history.acknowledge(1..2, second);
        pass().await;
        assert!(
            read(early, Some(first)).is_ok(),
            "the read began before the second write was acknowledged"
        );
        assert!(read(Instant::now(), Some(second)).is_ok());
        assert!(read(Instant::now(), Some(first)).is_err());
        assert!(read(Instant::now(), None).is_err());
        assert!(read(Instant::now(), Some(WriteNumber(99))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_that_was_read_on_another_mount_must_stay() {
        let history = History::default();
        let first = history.begin(1..2, HERE);
        history.acknowledge(1..2, first);
        pass().await;
        let unknown = history.begin(1..2, HERE);
        pass().await;
        assert!(history.read(1, HERE, Instant::now(), Some(unknown)).is_ok());
        assert!(
            history.read(1, HERE, Instant::now(), Some(first)).is_ok(),
            "it may have been given up"
        );
        assert!(history.read(1, THERE, Instant::now(), Some(unknown)).is_ok());
        pass().await;
        assert!(
            history.read(1, THERE, Instant::now(), Some(first)).is_err(),
            "it was seen here before"
        );
        assert!(
            history.read(1, HERE, Instant::now(), Some(first)).is_ok(),
            "it may still be told"
        );
        tokio::time::advance(LEASES_END).await;
        assert!(history.read(1, HERE, Instant::now(), Some(first)).is_err());
    }

    #[test]
    fn updates_under_a_lock_form_one_chain() {
        let history = History::default();
        history.read_locked(1, None).unwrap();
        let first = history.begin_locked(1, None);
        let lost = history.begin_locked(1, None);
        history.acknowledge_locked(1, first).unwrap();
        assert!(history.acknowledge_locked(1, lost).is_err(), "a lost update");
        let unknown = history.begin_locked(1, Some(first));
        history.read_locked(1, Some(unknown)).unwrap();
        assert!(history.read_locked(1, Some(first)).is_err(), "it went back");
        assert!(history.read_locked(1, Some(lost)).is_err(), "too late");
    }
}
