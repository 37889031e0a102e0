//! Directories that are delegated to this client: which they are, what of them is under way, and what was answered. Pure.
//!
//! # Contract
//!
//! * A delegation begins with a reply, or with a directory made early, and ends with `Recall`, with the stream, with any
//!   invalidation of the directory, or when something that was answered turns out to be impossible.
//! * While an ordinary request that changes a directory is under way, nothing is answered for it: what is answered has to know what is there.
//! * Whoever answers holds this lock from the look at the caches until the operation is sent and the caches are changed. So what
//!   is recalled afterwards was sent before it is returned.

use std::collections::{BTreeSet, HashMap};

use twinshore_protocol::{InodeNumber, Operation, RequestNumber};

/// The number of a delegation: a directory that is delegated again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term(u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Delegations {
    held: HashMap<InodeNumber, Term>,
    terms: u64,
    /// How many ordinary requests that change a directory are under way.
    asked: HashMap<InodeNumber, u32>,
    /// What was answered and has no reply, with the inodes that it concerns.
    answered: HashMap<RequestNumber, Vec<InodeNumber>>,
}

impl Delegations {
    /// A directory is delegated from now on, if it was not.
    pub fn hold(&mut self, directory: InodeNumber) -> Term {
        self.terms += 1;
        *self.held.entry(directory).or_insert(Term(self.terms))
    }

    /// It is no longer.
    pub fn let_go(&mut self, directory: InodeNumber) {
        self.held.remove(&directory);
    }

    /// The stream is broken.
    pub fn let_go_of_all(&mut self) {
        self.held.clear();
    }

    /// The session is over: of what was answered nothing more is heard.
    pub fn expired(&mut self) {
        self.held.clear();
        self.answered.clear();
    }

    /// The delegation of a directory.
    pub fn term(&self, directory: InodeNumber) -> Option<Term> {
        self.held.get(&directory).copied()
    }

    /// The same, if nothing stands in the way of answering for it.
    pub fn free(&self, directory: InodeNumber) -> Option<Term> {
        let term = self.term(directory)?;
        (!self.asked.contains_key(&directory)).then_some(term)
    }

    /// Is an ordinary request under way that changes this?
    pub fn is_asked(&self, inode: InodeNumber) -> bool {
        self.asked.contains_key(&inode)
    }

    /// An operation was answered and sent.
    pub fn answered(&mut self, number: RequestNumber, concerned: Vec<InodeNumber>) {
        self.answered.insert(number, concerned);
    }

    /// Its reply has come. The inodes that it concerns.
    pub fn replied(&mut self, number: RequestNumber) -> Vec<InodeNumber> {
        self.answered.remove(&number).unwrap_or_default()
    }

    /// An ordinary request that changes these directories is to be sent.
    pub fn ask(&mut self, directories: &BTreeSet<InodeNumber>) {
        for directory in directories {
            *self.asked.entry(*directory).or_default() += 1;
        }
    }

    /// Its reply has been taken in.
    pub fn told(&mut self, directories: &BTreeSet<InodeNumber>) {
        for directory in directories {
            if let Some(count) = self.asked.get_mut(directory) {
                *count -= 1;
                if *count == 0 {
                    self.asked.remove(directory);
                }
            }
        }
    }
}

/// The directories (and what may be one) that an ordinary request changes.
pub fn changed_by(operation: &Operation) -> BTreeSet<InodeNumber> {
    match operation {
        Operation::MakeNode { parent, .. }
        | Operation::MakeDirectory { parent, .. }
        | Operation::Create { parent, .. }
        | Operation::SymbolicLink { parent, .. }
        | Operation::Link { parent, .. }
        | Operation::Unlink { parent, .. }
        | Operation::RemoveDirectory { parent, .. } => BTreeSet::from([*parent]),
        Operation::Rename {
            parent, new_parent, ..
        } => BTreeSet::from([*parent, *new_parent]),
        Operation::SetAttributes { inode, .. }
        | Operation::SetExtendedAttribute { inode, .. }
        | Operation::RemoveExtendedAttribute { inode, .. } => BTreeSet::from([*inode]),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: InodeNumber = InodeNumber(5);

    #[test]
    fn nothing_is_answered_while_an_ordinary_request_changes_the_directory() {
        let mut delegations = Delegations::default();
        let term = delegations.hold(DIRECTORY);
        assert_eq!(delegations.free(DIRECTORY), Some(term));
        let changed = BTreeSet::from([DIRECTORY]);
        delegations.ask(&changed);
        delegations.ask(&changed);
        delegations.told(&changed);
        assert_eq!(delegations.free(DIRECTORY), None);
        assert_eq!(delegations.term(DIRECTORY), Some(term));
        delegations.told(&changed);
        assert_eq!(delegations.free(DIRECTORY), Some(term));
    }

    #[test]
    fn a_directory_that_is_delegated_again_has_another_term() {
        let mut delegations = Delegations::default();
        let first = delegations.hold(DIRECTORY);
        assert_eq!(delegations.hold(DIRECTORY), first);
        delegations.let_go(DIRECTORY);
        assert_ne!(delegations.hold(DIRECTORY), first);
    }
}
