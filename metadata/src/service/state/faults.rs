//! Deliberate faults: they exist to prove that the simulation finds them. Without the feature `deliberate-faults` (or in
//! tests) none can be switched on.

use crate::view::Mutation;

/// A fault of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers mutations before their record is committed.
    AcknowledgeBeforeJournal,
    /// Lets a session that is over go on.
    SkipEpochOrSessionCheck,
    /// Forgets to tell one holder of one change.
    LoseOneRecall,
    /// Loses the task of one object.
    ForgetOutboxEntry,
    /// Has an object deleted that files still name.
    DeleteReferencedObject,
    /// Executes a request that concerns what is delegated to somebody else without waiting for it to be returned.
    ExecuteWithoutRecall,
    /// Tells others of files that were told to be sole, without their directory being returned.
    TellOfSoleFiles,
    /// Does not look whether a repeated request was executed before.
    ApplyRetryTwice,
    /// Has dead objects deleted before the archive knows that they are dead.
    DeleteBeforeArchived,
    /// Lets a directory change while it is copied.
    CopyWithoutHoldingStill,
}

/// Faults that happen once happen at the second opportunity: the first is often the set-up of a test.
#[cfg(any(test, feature = "deliberate-faults"))]
const OPPORTUNITY: u32 = 2;

/// The switched-on fault, if any.
#[derive(Debug, Default)]
pub(super) struct Faults {
    #[cfg(any(test, feature = "deliberate-faults"))]
    fault: Option<Fault>,
    #[cfg(any(test, feature = "deliberate-faults"))]
    opportunities: u32,
}

#[cfg(any(test, feature = "deliberate-faults"))]
impl Faults {
    pub fn new(fault: Option<Fault>) -> Self {
        Self {
            fault,
            opportunities: 0,
        }
    }

    /// Is this fault on?
    pub fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Is this fault on, and is this the one opportunity to make it?
    pub fn take(&mut self, fault: Fault) -> bool {
        if !self.is(fault) {
            return false;
        }
        self.opportunities += 1;
        self.opportunities == OPPORTUNITY
    }

    /// Loses a task from the mutations of an operation that owes one.
    pub fn tamper(&mut self, mutations: &mut Vec<Mutation>) {
        use crate::core::keys;
        let owed = |mutation: &Mutation| {
            matches!(mutation.key.first(), Some(&(keys::OWED | keys::OWED_POSITION)))
                && mutation.value.is_some()
        };
        if mutations.iter().any(owed) && self.take(Fault::ForgetOutboxEntry) {
            mutations.retain(|mutation| !owed(mutation));
        }
    }
}

#[cfg(not(any(test, feature = "deliberate-faults")))]
#[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, clippy::ptr_arg)] // The shape of the one above.
impl Faults {
    pub fn new(_: Option<Fault>) -> Self {
        Self {}
    }

    pub fn is(&self, _: Fault) -> bool {
        false
    }

    pub fn take(&mut self, _: Fault) -> bool {
        false
    }

    pub fn tamper(&mut self, _: &mut Vec<Mutation>) {}
}
