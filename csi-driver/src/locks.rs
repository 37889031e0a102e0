//! One call at a time about one thing: a second one is told so, as the specification asks for ("at most one call in flight per volume").

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::CallError;

/// What calls are under way about.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<HashSet<String>>>);

/// The right to work on something, until it is dropped.
#[derive(Debug)]
pub struct Held {
    locks: Locks,
    name: String,
}

impl Locks {
    /// Takes the right, if nobody has it.
    pub fn take(&self, name: &str) -> Result<Held, CallError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(name.to_owned()) {
            return Err(CallError::Pending(name.to_owned()));
        }
        Ok(Held {
            locks: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_second_call_about_the_same_is_refused_until_the_first_has_ended() {
        let locks = Locks::default();
        let first = locks.take("a").unwrap();
        assert!(matches!(locks.take("a"), Err(CallError::Pending(_))));
        let _other = locks.take("b").unwrap();
        drop(first);
        assert!(locks.take("a").is_ok());
    }
}
