//! Answers that do not wait for the service, for directories that are delegated to this client.
//!
//! # Flow
//!
//! 1. Under the lock of the delegations: is the directory delegated, the lease good, the name known, its attributes known, and would the
//!    service do it? Everything that it checks is checked here; in doubt the operation goes the ordinary way.
//! 2. The operation is sent, marked with the time of the answer, and the caches are changed as its reply would change them.
//! 3. The program is answered. `fsync` and `close` wait for the reply ([`Core::executed`]).
//! 4. The reply settles it: as long as something later is under way for an inode, the caches know better than it.
//!
//! # Own children
//!
//! Only what nobody else holds anything of is changed or removed: a file with one name that this client made while the directory was
//! delegated (in the same term), or of which the service has said so ([`Delegated::sole`]); or a directory that is itself delegated.
//!
//! # Failure
//!
//! An operation that was answered and is refused all the same is logged, tells its error once with the next `fsync` or `close` of
//! what it concerns, and everything cached of that is dropped, here and in the kernel.

use std::sync::Arc;

use bytes::Bytes;
use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::format::Durability;
use twinshore_protocol::message::{Delegated, Invalidation};
use twinshore_protocol::operation::{NewInode, RenameMode};
use twinshore_protocol::{
    Attributes, Caller, Errno, FileName, FileType, InodeNumber, Operation, Position, Reply, RequestNumber,
    Timestamp,
};

use super::caches::Caches;
use super::core::Core;
use super::delegations::{Delegations, Term};
use super::entries::Name;
use super::extents::ExtentCache;
use super::inode::{Inode, Privacy, lock};
use super::options::Fault;
use crate::logbook::{Note, calls};

/// Execute (search) and write, of a directory.
const WRITE_EXECUTE: u16 = 0o3;

const STICKY: u16 = 0o1000;
const SET_GROUP: u16 = 0o2000;
const SET_ID: u16 = 0o6000;
const GROUP_EXECUTE: u16 = 0o010;

/// What an entry adds to the size of its directory.
const ENTRY_BYTES: u64 = 32;

/// The content version of a file that no record has changed yet.
const UNRECORDED: Position = Position::ZERO;

/// What is to be made.
#[derive(Clone, Debug)]
pub enum Made {
    /// A regular file, opened.
    File,
    /// A regular file that is not opened, a pipe or a socket.
    Node(FileType),
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(Bytes),
}

/// A directory that an answer can be given for.
struct Place {
    inode: Arc<Inode>,
    attributes: Attributes,
    term: Term,
    /// The time of the answer.
    time: Timestamp,
}

fn is_in_group(caller: &Caller, group: u32) -> bool {
    caller.group == group || caller.groups.contains(&group)
}

/// May the caller change names in a directory without ACL?
fn may_change_names(caller: &Caller, directory: &Attributes) -> bool {
    let granted = if caller.user == 0 {
        WRITE_EXECUTE
    } else if caller.user == directory.user {
        directory.mode >> 6
    } else if is_in_group(caller, directory.group) {
        directory.mode >> 3
    } else {
        directory.mode
    };
    granted & WRITE_EXECUTE == WRITE_EXECUTE
}

fn owns(caller: &Caller, attributes: &Attributes) -> bool {
    caller.user == 0 || caller.user == attributes.user
}

/// May the caller remove a name of this inode from the directory?
fn may_remove(caller: &Caller, directory: &Attributes, victim: &Attributes) -> bool {
    directory.mode & STICKY == 0 || owns(caller, directory) || owns(caller, victim)
}

/// The attributes of a new inode, as the service gives them where the directory has no default ACL.
fn new_attributes(
    caller: &Caller,
    directory: &Attributes,
    new: NewInode,
    made: &Made,
    time: Timestamp,
) -> Attributes {
    let (kind, asked, umask) = match made {
        Made::File => (FileType::Regular, new.mode & 0o7777, new.umask),
        Made::Node(kind) => (*kind, new.mode & 0o7777, new.umask),
        Made::Directory => (FileType::Directory, new.mode & 0o1777, new.umask),
        Made::Link(_) => (FileType::SymbolicLink, 0o777, 0),
    };
    let is_directory = kind == FileType::Directory;
    let inherits_group = directory.mode & SET_GROUP != 0;
    let group = if inherits_group {
        directory.group
    } else {
        caller.group
    };
    let mut bits = asked;
    if is_directory && inherits_group {
        bits |= SET_GROUP;
    }
    let foreign_group = !is_directory && caller.user != 0 && !is_in_group(caller, group);
    if foreign_group && bits & (SET_GROUP | GROUP_EXECUTE) == SET_GROUP | GROUP_EXECUTE {
        bits &= !SET_GROUP;
    }
    Attributes {
        inode: new.inode,
        kind,
        mode: bits & !(umask & 0o777),
        links: if is_directory { 2 } else { 1 },
        user: caller.user,
        group,
        device: 0,
        size_bytes: match made {
            Made::Link(target) => target.len() as u64,
            _ => 0,
        },
        allocated_bytes: 0,
        accessed: time,
        modified: time,
        changed: time,
        content_version: UNRECORDED,
        has_extended_attributes: false,
    }
}

impl Core {
    /// The directory, if names in it can be changed early for this caller.
    fn place(&self, delegations: &Delegations, caller: &Caller, directory: InodeNumber) -> Option<Place> {
        let term = delegations.free(directory)?;
        if self.options.read_only || !self.session.lease_is_valid() {
            return None;
        }
        let inode = self.caches.inodes.find(directory)?;
        let attributes = inode.state().attributes?;
        // An ACL decides who may do what, and what new inodes inherit.
        if attributes.has_extended_attributes
            || attributes.links == 0
            || !may_change_names(caller, &attributes)
        {
            return None;
        }
        let time = self.session.service_time()?;
        Some(Place {
            inode,
            attributes,
            term,
            time: time.max(attributes.modified).max(attributes.changed),
        })
    }

    /// Sends what is answered. `None`: it has to go the ordinary way.
    fn send_early(
        &self,
        delegations: &mut Delegations,
        caller: &Caller,
        operation: Operation,
        time: Timestamp,
        concerned: &[&Arc<Inode>],
    ) -> Option<()> {
        let caller = Caller {
            answered: Some(time),
            ..caller.clone()
        };
        let forgets = self.options.has(Fault::ForgetAnswered)
            && concerned.first().is_some_and(|inode| inode.number.0 % 8 == 0);
        if forgets {
            return Some(());
        }
        let numbers: Vec<InodeNumber> = concerned.iter().map(|inode| inode.number).collect();
        let number = if self.logbook().is_some() {
            // Asked for by the process before this one: its reply is waited for.
            if self.is_inherited() {
                return None;
            }
            let note = Note {
                concerned: numbers.clone(),
                ..Note::default()
            };
            calls::noted(note, || self.session.early(caller, operation))
        } else {
            self.session.early(caller, operation)
        }?;
        for inode in concerned {
            inode.state().early += 1;
        }
        delegations.answered(number, numbers);
        Some(())
    }

    /// Makes an inode of a name that is known to be absent.
    pub fn make_early(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        (permissions, umask): (u16, u16),
        made: &Made,
    ) -> Option<(Arc<Inode>, Attributes)> {
        let mut delegations = lock(&self.caches.delegations);
        let place = self.place(&delegations, caller, parent)?;
        if lock(&self.caches.entries).get(parent, name) != Name::Absent {
            return None;
        }
        let number = self.session.take_inode_now()?;
        let new = NewInode {
            inode: number,
            mode: permissions,
            umask,
        };
        let attributes = new_attributes(caller, &place.attributes, new, made, place.time);
        let (parent, name) = (place.inode.number, name.clone());
        let operation = match made {
            Made::File => Operation::Create {
                parent,
                name: name.clone(),
                new,
                exclusive: true,
                truncate: false,
            },
            Made::Node(kind) => Operation::MakeNode {
                parent,
                name: name.clone(),
                new,
                kind: *kind,
                device: 0,
            },
            Made::Directory => Operation::MakeDirectory {
                parent,
                name: name.clone(),
                new,
            },
            Made::Link(target) => Operation::SymbolicLink {
                parent,
                name: name.clone(),
                inode: number,
                target: target.clone(),
            },
        };
        let inode = self.caches.inodes.get(number);
        self.send_early(
            &mut delegations,
            caller,
            operation,
            place.time,
            &[&inode, &place.inode],
        )?;
        {
            let mut state = inode.state();
            state.attributes = Some(attributes);
            state.own = Some((parent, place.term));
            match made {
                Made::File | Made::Node(FileType::Regular) => {
                    state.extents = ExtentCache::empty_file();
                    state.pages_version = Some(UNRECORDED);
                }
                Made::Link(target) => state.link_target = Some(target.clone()),
                Made::Node(_) | Made::Directory => {}
            }
            if matches!(made, Made::File) && self.session.format().settings.durability == Durability::Fsync {
                state.privacy = Privacy::Private;
            }
        }
        let is_directory = attributes.kind == FileType::Directory;
        {
            let mut entries = lock(&self.caches.entries);
            entries.learn(parent, &name, Name::Names(number));
            if is_directory {
                entries.made_directory(number);
            }
        }
        place.changed(1, i32::from(is_directory));
        if is_directory {
            delegations.hold(number);
        }
        Some((inode, attributes))
    }

    /// An inode that nobody else holds anything of, by its name, with its attributes.
    fn own_child(
        &self,
        delegations: &Delegations,
        place: &Place,
        name: &FileName,
    ) -> Option<(Arc<Inode>, Attributes)> {
        let Name::Names(number) = lock(&self.caches.entries).get(place.inode.number, name) else {
            return None;
        };
        let inode = self.caches.inodes.find(number)?;
        let (attributes, own) = {
            let state = inode.state();
            (state.attributes?, state.own)
        };
        let is_own = if attributes.kind == FileType::Directory {
            delegations.free(number).is_some()
        } else {
            own == Some((place.inode.number, place.term)) && attributes.links == 1
        };
        is_own.then_some((inode, attributes))
    }

    /// Removes a name of an own file.
    pub fn unlink_early(&self, caller: &Caller, parent: InodeNumber, name: &FileName) -> Option<()> {
        let mut delegations = lock(&self.caches.delegations);
        let place = self.place(&delegations, caller, parent)?;
        let (inode, attributes) = self.own_child(&delegations, &place, name)?;
        if attributes.kind == FileType::Directory || !may_remove(caller, &place.attributes, &attributes) {
            return None;
        }
        let operation = Operation::Unlink {
            parent,
            name: name.clone(),
        };
        self.send_early(
            &mut delegations,
            caller,
            operation,
            place.time,
            &[&inode, &place.inode],
        )?;
        lost_its_name(&inode, place.time);
        lock(&self.caches.entries).learn(parent, name, Name::Absent);
        place.changed(-1, 0);
        Some(())
    }

    /// Removes an own directory that is empty.
    pub fn remove_directory_early(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
    ) -> Option<()> {
        let mut delegations = lock(&self.caches.delegations);
        let place = self.place(&delegations, caller, parent)?;
        let (inode, attributes) = self.own_child(&delegations, &place, name)?;
        let is_empty_directory = attributes.kind == FileType::Directory && attributes.size_bytes == 0;
        if !is_empty_directory || !may_remove(caller, &place.attributes, &attributes) {
            return None;
        }
        let operation = Operation::RemoveDirectory {
            parent,
            name: name.clone(),
        };
        self.send_early(
            &mut delegations,
            caller,
            operation,
            place.time,
            &[&inode, &place.inode],
        )?;
        lost_its_name(&inode, place.time);
        delegations.let_go(inode.number);
        {
            let mut entries = lock(&self.caches.entries);
            entries.drop_directory(inode.number);
            entries.learn(parent, name, Name::Absent);
        }
        place.changed(-1, -1);
        Some(())
    }

    /// Gives something own another name in the same directory; an own file of that name is replaced by a file.
    pub fn rename_early(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        new_name: &FileName,
        mode: RenameMode,
    ) -> Option<()> {
        if name == new_name || mode == RenameMode::Exchange {
            return None;
        }
        let mut delegations = lock(&self.caches.delegations);
        let place = self.place(&delegations, caller, parent)?;
        let (inode, attributes) = self.own_child(&delegations, &place, name)?;
        if !may_remove(caller, &place.attributes, &attributes) {
            return None;
        }
        let known = lock(&self.caches.entries).get(parent, new_name);
        let replaced = match known {
            Name::Absent => None,
            Name::Names(_) if mode == RenameMode::Replace => {
                let (target, target_attributes) = self.own_child(&delegations, &place, new_name)?;
                let is_directory = |attributes: &Attributes| attributes.kind == FileType::Directory;
                if is_directory(&attributes)
                    || is_directory(&target_attributes)
                    || target.number == inode.number
                    || !may_remove(caller, &place.attributes, &target_attributes)
                {
                    return None;
                }
                Some(target)
            }
            Name::Names(_) | Name::Unknown => return None,
        };
        let operation = Operation::Rename {
            parent,
            name: name.clone(),
            new_parent: parent,
            new_name: new_name.clone(),
            mode,
        };
        let mut concerned = vec![&inode, &place.inode];
        concerned.extend(&replaced);
        self.send_early(&mut delegations, caller, operation, place.time, &concerned)?;
        if let Some(attributes) = &mut inode.state().attributes {
            attributes.changed = place.time;
        }
        {
            let mut entries = lock(&self.caches.entries);
            entries.learn(parent, name, Name::Absent);
            entries.learn(parent, new_name, Name::Names(inode.number));
        }
        if let Some(replaced) = &replaced {
            lost_its_name(replaced, place.time);
        }
        place.changed(if replaced.is_some() { -1 } else { 0 }, 0);
        Some(())
    }

    /// Changes attributes of something own: what the owner or root may do, and what clears no privileges.
    pub fn set_attributes_early(
        &self,
        caller: &Caller,
        number: InodeNumber,
        changes: &AttributeChanges,
    ) -> Option<Attributes> {
        let mut delegations = lock(&self.caches.delegations);
        let inode = self.caches.inodes.find(number)?;
        let (mut attributes, own, is_written) = {
            let state = inode.state();
            (state.attributes?, state.own, state.is_written())
        };
        let is_own = if attributes.kind == FileType::Directory {
            delegations.free(number).is_some()
        } else {
            own.is_some_and(|(parent, term)| delegations.free(parent) == Some(term)) && attributes.links == 1
        };
        let AttributeChanges {
            mode,
            user,
            group,
            size_bytes,
            accessed,
            modified,
        } = *changes;
        let changes_owner = user.is_some() || group.is_some();
        let may = caller.user == 0 || (caller.user == attributes.user && !changes_owner);
        let sets_ids = (attributes.mode | mode.unwrap_or(0)) & SET_ID != 0;
        if !is_own
            || delegations.is_asked(number)
            || !is_written
            || !may
            || sets_ids
            || size_bytes.is_some()
            || *changes == AttributeChanges::default()
            || attributes.has_extended_attributes
            || (attributes.kind == FileType::SymbolicLink && mode.is_some())
            || self.options.read_only
            || !self.session.lease_is_valid()
        {
            return None;
        }
        let time = self.session.service_time()?.max(attributes.changed);
        let at = |change: TimeChange| match change {
            TimeChange::Now => time,
            TimeChange::To(time) => time,
        };
        attributes.mode = mode.map_or(attributes.mode, |mode| mode & 0o7777);
        attributes.user = user.unwrap_or(attributes.user);
        attributes.group = group.unwrap_or(attributes.group);
        attributes.accessed = accessed.map_or(attributes.accessed, at);
        attributes.modified = modified.map_or(attributes.modified, at);
        attributes.changed = time;
        let operation = Operation::SetAttributes {
            inode: number,
            changes: *changes,
        };
        self.send_early(&mut delegations, caller, operation, time, &[&inode])?;
        inode.state().attributes = Some(attributes);
        Some(attributes)
    }

    /// Waits until everything that was answered for the inode is executed and durable.
    pub async fn executed(&self, inode: &Inode) {
        loop {
            let progress = inode.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if inode.state().early == 0 {
                return;
            }
            self.session.hurry();
            progress.await;
        }
    }
}

impl Place {
    /// So many entries more, of which so many are directories.
    fn changed(&self, entries: i64, directories: i32) {
        if let Some(attributes) = &mut self.inode.state().attributes {
            let bytes = entries * ENTRY_BYTES.cast_signed();
            attributes.size_bytes = attributes.size_bytes.saturating_add_signed(bytes);
            attributes.links = attributes.links.saturating_add_signed(directories);
            attributes.modified = self.time;
            attributes.changed = self.time;
        }
    }
}

fn lost_its_name(inode: &Inode, time: Timestamp) {
    let mut state = inode.state();
    state.own = None;
    if let Some(attributes) = &mut state.attributes {
        attributes.links = 0;
        attributes.changed = time;
    }
}

/// The attributes of an inode in a reply.
fn told<'a>(number: InodeNumber, reply: &'a Reply, directories: &'a [Attributes]) -> Option<&'a Attributes> {
    let (first, second) = match reply {
        Reply::Entry(attributes) | Reply::Attributes(attributes) | Reply::Created { attributes, .. } => {
            (Some(attributes), None)
        }
        Reply::Removed { attributes, parent } => (Some(attributes), Some(parent)),
        Reply::Renamed { moved, replaced } => (Some(moved), replaced.as_ref()),
        _ => (None, None),
    };
    let mut all = first.into_iter().chain(second).chain(directories);
    all.find(|attributes| attributes.inode == number)
}

impl Caches {
    /// What was answered has been executed, or refused.
    pub fn executed_early(
        &self,
        number: RequestNumber,
        operation: &Operation,
        result: &Result<Reply, Errno>,
        directories: &[Attributes],
    ) {
        let mut delegations = lock(&self.delegations);
        let concerned: Vec<_> = (delegations.replied(number).into_iter())
            .filter_map(|number| self.inodes.find(number))
            .collect();
        for inode in &concerned {
            let mut state = inode.state();
            state.early = state.early.saturating_sub(1);
            match result {
                Ok(reply) => {
                    if let (0, Some(before), Some(attributes)) = (
                        state.early,
                        state.attributes,
                        told(inode.number, reply, directories),
                    ) {
                        if state.pages_version == Some(before.content_version) {
                            state.pages_version = Some(attributes.content_version);
                        }
                        state.attributes = Some(*attributes);
                    }
                }
                Err(errno) => {
                    state.error.get_or_insert(*errno);
                    self.record_failure(inode.number, state.error);
                    state.drop_content();
                    delegations.let_go(inode.number);
                }
            }
        }
        if let Operation::Create { new, .. } = operation
            && let Some(inode) = concerned.iter().find(|inode| inode.number == new.inode)
        {
            let mut state = inode.state();
            if let Ok(Reply::Created { private, .. }) = result {
                state.opens_replied += 1;
                if !private && state.privacy == Privacy::Private {
                    state.privacy = Privacy::Shared;
                }
            } else {
                state.opens_sent = state.opens_sent.saturating_sub(1);
                state.stale = true;
            }
        }
        drop(delegations);
        if let Err(errno) = result {
            tracing::error!(?operation, %errno, "what a program was told could not be done: the next fsync or close says so");
            let mut items = Vec::new();
            for inode in &concerned {
                lock(&self.entries).drop_directory(inode.number);
                items.extend(self.for_kernel(Invalidation::Everything(inode.number)));
            }
            self.kernel.invalidate(items, Box::new(|| {}));
        }
        for inode in &concerned {
            inode.progress.notify_waiters();
        }
    }

    /// Directories are delegated, as the reply to an operation says.
    pub fn now_delegated(&self, operation: &Operation, result: &Result<Reply, Errno>, delegated: &Delegated) {
        let mut delegations = lock(&self.delegations);
        for directory in &delegated.directories {
            let term = delegations.hold(*directory);
            let Some(inode) = self.inodes.find(*directory) else {
                continue;
            };
            let attributes = inode.state().attributes;
            if let Some(attributes) = attributes {
                lock(&self.entries).has_entries(*directory, attributes.size_bytes / ENTRY_BYTES);
            }
            let made = match (operation, result) {
                (
                    Operation::Create { parent, .. },
                    Ok(Reply::Created {
                        attributes,
                        new: true,
                        ..
                    }),
                )
                | (
                    Operation::MakeNode { parent, .. } | Operation::SymbolicLink { parent, .. },
                    Ok(Reply::Entry(attributes)),
                ) if parent == directory => self.inodes.find(attributes.inode),
                _ => None,
            };
            if let Some(made) = made {
                made.state().own = Some((*directory, term));
            }
        }
        let first = delegated.directories.first();
        let term = first.and_then(|first| Some((*first, delegations.term(*first)?)));
        for inode in delegated
            .sole
            .iter()
            .filter_map(|number| self.inodes.find(*number))
        {
            inode.state().own = term;
        }
    }

    /// Nothing is answered for these any more.
    pub fn give_back(&self, directories: &[InodeNumber]) {
        let mut delegations = lock(&self.delegations);
        for directory in directories {
            delegations.let_go(*directory);
        }
    }
}
