//! Names of directories as far as they are known under a lease: what each names, or that it names nothing. Pure.
//!
//! A directory that was listed from its beginning to its end without an interruption is *complete*: what is not among its
//! names does not exist. A name that somebody else touched becomes *unknown*; the others, and completeness for all other
//! names, stay: the service goes on telling of every change in the directory until it says `Everything`.

use std::collections::HashMap;
use std::sync::Arc;

use twinshore_protocol::reply::DirectoryEntry;
use twinshore_protocol::{FileName, FileType, InodeNumber};

use super::lru::Lru;

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// It names this inode.
    Names(InodeNumber),
    /// It names nothing.
    Absent,
    /// Ask the service.
    Unknown,
}

/// A listing that is still right: names, types and cookies, without attributes.
pub type Listing = Arc<Vec<Row>>;

/// An entry of a listing: name, inode, type and cookie.
pub type Row = (FileName, InodeNumber, FileType, u64);

/// How far a page of a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// All entries up to this cookie are in it, or in the pages before.
    Cookie(u64),
    /// There is nothing behind it.
    End,
}

impl Reached {
    /// Of a reply with these entries, to a request for everything up to a cookie. A page that is not complete has entries.
    pub fn of(entries: &[DirectoryEntry], complete: bool, until: Option<u64>) -> Self {
        let last = || entries.last().map_or(0, |entry| entry.cookie);
        match until {
            None if complete => Self::End,
            Some(until) if complete => Self::Cookie(until),
            _ => Self::Cookie(last()),
        }
    }
}

#[derive(Debug, Default)]
struct Directory {
    names: HashMap<FileName, Name>,
    complete: bool,
    /// The pages of a listing so far, and the cookie at which it goes on.
    under_way: Option<(Vec<Row>, u64)>,
    listing: Option<Listing>,
}

/// The names of all directories.
#[derive(Debug)]
pub struct EntryCache {
    directories: Lru<InodeNumber, Directory>,
    limit: u64,
}

impl EntryCache {
    /// A cache of at most about `limit` names.
    pub fn new(limit: usize) -> Self {
        Self {
            directories: Lru::new(),
            limit: limit as u64,
        }
    }

    /// What is known of a name.
    pub fn get(&mut self, parent: InodeNumber, name: &FileName) -> Name {
        let Some(directory) = self.directories.get_mut(&parent) else {
            return Name::Unknown;
        };
        match directory.names.get(name) {
            Some(known) => *known,
            None if directory.complete => Name::Absent,
            None => Name::Unknown,
        }
    }

    /// What an own operation or a look-up has made known. Not `Unknown`.
    pub fn learn(&mut self, parent: InodeNumber, name: &FileName, known: Name) {
        self.change(parent, |directory| {
            let before = directory.names.insert(name.clone(), known);
            // A look-up that only confirms leaves a listing as it is.
            let confirms =
                before == Some(known) || (before.is_none() && directory.complete && known == Name::Absent);
            if !confirms {
                directory.listing = None;
                directory.under_way = None;
            }
        });
    }

    /// Somebody else has changed what a name names.
    pub fn forget(&mut self, parent: InodeNumber, name: &FileName) {
        if self.directories.peek_mut(&parent).is_none() {
            return;
        }
        self.change(parent, |directory| {
            directory.listing = None;
            directory.under_way = None;
            if directory.complete {
                directory.names.insert(name.clone(), Name::Unknown);
            } else {
                directory.names.remove(name);
            }
        });
    }

    /// An own operation has made a new, empty directory.
    pub fn made_directory(&mut self, directory: InodeNumber) {
        self.change(directory, |directory| {
            *directory = Directory {
                complete: true,
                ..Directory::default()
            };
        });
    }

    /// A page of a listing has come.
    pub fn listed(
        &mut self,
        directory: InodeNumber,
        after: u64,
        entries: &[DirectoryEntry],
        reached: Reached,
    ) {
        self.change(directory, |directory| {
            for entry in entries {
                directory
                    .names
                    .insert(entry.name.clone(), Name::Names(entry.inode));
            }
            let page = entries
                .iter()
                .map(|entry| (entry.name.clone(), entry.inode, entry.kind, entry.cookie));
            let mut pages = match directory.under_way.take() {
                _ if after == 0 => Vec::new(),
                Some((pages, next)) if next == after => pages,
                // A page of somewhere else says nothing about completeness.
                other => {
                    directory.under_way = other;
                    return;
                }
            };
            pages.extend(page);
            match reached {
                Reached::Cookie(next) => directory.under_way = Some((pages, next)),
                Reached::End => {
                    // What was believed of other names is replaced: the listing is younger.
                    directory.names = pages
                        .iter()
                        .map(|(name, inode, _, _)| (name.clone(), Name::Names(*inode)))
                        .collect();
                    directory.complete = true;
                    directory.listing = Some(Arc::new(pages));
                }
            }
        });
    }

    /// A directory is known to have so many entries. If so many names are known, these are all.
    pub fn has_entries(&mut self, directory: InodeNumber, entries: u64) {
        if let Some(directory) = self.directories.get_mut(&directory)
            && !directory.complete
            && directory.names.len() as u64 >= entries
        {
            let named = directory
                .names
                .values()
                .filter(|name| matches!(name, Name::Names(_)));
            directory.complete = named.count() as u64 == entries;
        }
    }

    /// The whole listing, if it is known.
    pub fn listing(&mut self, directory: InodeNumber) -> Option<Listing> {
        self.directories.get_mut(&directory)?.listing.clone()
    }

    /// Nothing is known of a directory any more.
    pub fn drop_directory(&mut self, directory: InodeNumber) {
        self.directories.remove(&directory);
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.directories.clear();
    }

    fn change(&mut self, number: InodeNumber, change: impl FnOnce(&mut Directory)) {
        if self.directories.get_mut(&number).is_none() {
            self.directories.insert(number, Directory::default(), 0);
        }
        let Some(directory) = self.directories.get_mut(&number) else {
            return;
        };
        change(directory);
        let under_way = directory.under_way.as_ref().map_or(0, |(pages, _)| pages.len());
        let listed = directory.listing.as_ref().map_or(0, |listing| listing.len());
        let weight = 1 + (directory.names.len() + under_way + listed) as u64;
        self.directories.reweigh(&number, weight);
        // Whole directories go, the one used last perhaps as the only and last one: its names alone exceed the limit.
        while self.directories.weight() > self.limit {
            let Some(oldest) = self.directories.oldest().map(|(key, _)| *key) else {
                break;
            };
            self.directories.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const DIRECTORY: InodeNumber = InodeNumber(1);

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    fn entry(text: &str, number: u64) -> DirectoryEntry {
        DirectoryEntry {
            name: name(text),
            inode: InodeNumber(number),
            kind: FileType::Regular,
            cookie: number * 10,
            attributes: None,
        }
    }

    #[test]
    fn a_directory_listed_to_its_end_answers_absence() {
        let mut cache = EntryCache::new(100);
        cache.listed(DIRECTORY, 0, &[entry("a", 2)], Reached::Cookie(20));
        assert_eq!(cache.get(DIRECTORY, &name("a")), Name::Names(InodeNumber(2)));
        assert_eq!(cache.get(DIRECTORY, &name("c")), Name::Unknown);
        cache.listed(DIRECTORY, 20, &[entry("b", 3)], Reached::End);
        assert_eq!(cache.get(DIRECTORY, &name("c")), Name::Absent);
        assert_eq!(cache.listing(DIRECTORY).unwrap().len(), 2);
    }

    #[test]
    fn a_change_during_a_listing_leaves_it_incomplete() {
        let mut cache = EntryCache::new(100);
        cache.listed(DIRECTORY, 0, &[entry("a", 2)], Reached::Cookie(20));
        cache.forget(DIRECTORY, &name("a"));
        cache.listed(DIRECTORY, 20, &[entry("b", 3)], Reached::End);
        assert_eq!(cache.get(DIRECTORY, &name("a")), Name::Unknown);
        assert_eq!(cache.get(DIRECTORY, &name("c")), Name::Unknown);
        assert!(cache.listing(DIRECTORY).is_none());
    }

    #[test]
    fn a_changed_name_is_unknown_while_the_others_stay_known() {
        let mut cache = EntryCache::new(100);
        cache.listed(DIRECTORY, 0, &[entry("a", 2), entry("b", 3)], Reached::End);
        cache.forget(DIRECTORY, &name("a"));
        assert_eq!(cache.get(DIRECTORY, &name("a")), Name::Unknown);
        assert_eq!(cache.get(DIRECTORY, &name("b")), Name::Names(InodeNumber(3)));
        assert_eq!(cache.get(DIRECTORY, &name("c")), Name::Absent);
        cache.learn(DIRECTORY, &name("a"), Name::Absent);
        assert_eq!(cache.get(DIRECTORY, &name("a")), Name::Absent);
        assert!(cache.listing(DIRECTORY).is_none());
    }

    #[test]
    fn the_directory_not_used_for_longest_is_forgotten_first() {
        let mut cache = EntryCache::new(6);
        for directory in 1..=3 {
            cache.learn(InodeNumber(directory), &name("a"), Name::Absent);
        }
        cache.get(InodeNumber(1), &name("a"));
        cache.learn(InodeNumber(4), &name("a"), Name::Absent);
        assert_eq!(cache.get(InodeNumber(2), &name("a")), Name::Unknown);
        assert_eq!(cache.get(InodeNumber(1), &name("a")), Name::Absent);
    }
}
