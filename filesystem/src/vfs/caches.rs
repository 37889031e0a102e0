//! Everything that this client caches under leases, filled and emptied in the order of the session's stream.
//!
//! # Contract
//!
//! * A reply fills the caches before the requester is woken, and an invalidation empties them before the next message is
//!   looked at; what changed while a reply was held back is named in the reply, and dropped with it: so what the caches hold at any moment is what the service would answer, as long as the lease lasts.
//! * An operation of this client tells in its reply what it changed. What the reply does not tell (the times of the
//!   directory of a new name) is dropped.
//! * When the stream breaks, nothing is known any more. When the session ends, unwritten data is given up as well: its files
//!   answer `EIO` once, and handles of inodes that have vanished answer `ESTALE`.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{Delegated, Invalidation, Reclaim};
use twinshore_protocol::operation::{FileCommit, RenameMode};
use twinshore_protocol::replication::Task;
use twinshore_protocol::session::SessionHandler;
use twinshore_protocol::{
    Attributes, Errno, FileName, InodeNumber, ObjectId, Operation, Reply, RequestNumber,
};

use super::budget::Budget;
use super::core::Core;
use super::delegations::Delegations;
use super::entries::{EntryCache, Name, Reached};
use super::extents::ExtentCache;
use super::held_locks::HeldLocks;
use super::inode::{Inode, Privacy, lock};
use super::inodes::Inodes;
use super::interface::{KernelInvalidator, TaskRunner};
use super::options::Fault;
use crate::logbook::Logbook;

/// The caches.
pub struct Caches {
    /// Inodes.
    pub inodes: Inodes,
    /// Names.
    pub entries: Mutex<EntryCache>,
    /// Directories for which this client answers.
    pub delegations: Mutex<Delegations>,
    /// Locks that the service has granted.
    pub locks: Mutex<HeldLocks>,
    /// Unwritten bytes.
    pub budget: Budget,
    /// What the kernel caches.
    pub kernel: Arc<dyn KernelInvalidator>,
    /// What is none of the file system's business.
    pub tasks: Arc<dyn TaskRunner>,
    /// What is kept for a successor.
    pub logbook: Option<Arc<Logbook>>,
    /// The inode that is the root of the mount; of the volume until it is known.
    root: OnceLock<InodeNumber>,
    /// Set once there is a session. Weak: the session holds this as its handler.
    core: OnceLock<Weak<Core>>,
}

impl Caches {
    /// Empty ones.
    pub fn new(
        inodes: Inodes,
        entries: EntryCache,
        budget: Budget,
        kernel: Arc<dyn KernelInvalidator>,
        tasks: Arc<dyn TaskRunner>,
        logbook: Option<Arc<Logbook>>,
    ) -> Self {
        Self {
            inodes,
            entries: Mutex::new(entries),
            delegations: Mutex::new(Delegations::default()),
            locks: Mutex::new(HeldLocks::default()),
            budget,
            kernel,
            tasks,
            logbook,
            root: OnceLock::new(),
            core: OnceLock::new(),
        }
    }

    /// There is a session now. The first call counts.
    pub fn attach(&self, core: Weak<Core>) {
        let _ = self.core.set(core);
    }

    /// The root of the mount is known now. The first call counts.
    pub fn set_root(&self, root: InodeNumber) {
        let _ = self.root.set(root);
    }

    /// The service's number of an inode that the kernel names.
    pub fn real(&self, kernel: InodeNumber) -> InodeNumber {
        if kernel == InodeNumber::ROOT {
            self.root.get().copied().unwrap_or(InodeNumber::ROOT)
        } else {
            kernel
        }
    }

    /// The kernel's number of an inode, if it can know it.
    pub fn kernel_number(&self, real: InodeNumber) -> Option<InodeNumber> {
        match self.root.get() {
            Some(root) if *root == real => Some(InodeNumber::ROOT),
            // The root of the volume is above the root of this mount.
            Some(_) if real == InodeNumber::ROOT => None,
            _ => Some(real),
        }
    }

    fn core(&self) -> Option<Arc<Core>> {
        self.core.get()?.upgrade()
    }

    /// What went wrong with an inode, or that it has been told. Called under its lock.
    pub fn record_failure(&self, inode: InodeNumber, errno: Option<Errno>) {
        if let Some(logbook) = &self.logbook {
            logbook.failure(inode, errno);
        }
    }

    fn learn(&self, attributes: &Attributes) {
        self.inodes.get(attributes.inode).state().learn(attributes);
    }

    fn drop_attributes(&self, number: InodeNumber) {
        if let Some(inode) = self.inodes.find(number) {
            inode.state().drop_attributes();
        }
    }

    fn named(&self, parent: InodeNumber, name: &FileName, inode: InodeNumber) {
        lock(&self.entries).learn(parent, name, Name::Names(inode));
    }

    /// A new name: the directory's times and size have changed.
    fn made(&self, parent: InodeNumber, name: &FileName, attributes: &Attributes) {
        self.learn(attributes);
        self.named(parent, name, attributes.inode);
        self.drop_attributes(parent);
    }

    /// Can names that were just told be taken in? Not while names are changed early: what was read may be older than the change.
    /// (It cannot be younger than one whose reply has come: replies to reads overtake, and are not overtaken.)
    fn knows_names(&self, directory: InodeNumber) -> bool {
        let inode = self.inodes.find(directory);
        inode.is_none_or(|inode| inode.state().early == 0)
    }

    fn reweigh(&self, inode: &Inode) {
        let weight = inode.state().weight();
        self.inodes.reweigh(inode.number, weight);
    }

    #[allow(clippy::too_many_lines)] // One table of all operations, in their order.
    fn succeeded(&self, operation: &Operation, reply: &Reply) {
        match (operation, reply) {
            (Operation::Lookup { parent, name }, Reply::Entry(attributes)) => {
                self.learn(attributes);
                if self.knows_names(*parent) {
                    self.named(*parent, name, attributes.inode);
                }
            }
            (Operation::GetAttributes { .. }, Reply::Attributes(attributes)) => self.learn(attributes),
            (Operation::SetAttributes { inode, changes }, Reply::Attributes(attributes)) => {
                let inode = self.inodes.get(*inode);
                let mut state = inode.state();
                state.drop_extended_attributes();
                if let Some(size) = changes.size_bytes {
                    state.extents.truncate(size);
                    state.committed(attributes);
                } else {
                    state.learn(attributes);
                }
            }
            (
                Operation::MakeNode { parent, name, .. }
                | Operation::SymbolicLink { parent, name, .. }
                | Operation::Link { parent, name, .. },
                Reply::Entry(attributes),
            ) => self.made(*parent, name, attributes),
            (Operation::MakeDirectory { parent, name, .. }, Reply::Entry(attributes)) => {
                self.made(*parent, name, attributes);
                lock(&self.entries).made_directory(attributes.inode);
            }
            (
                Operation::Create {
                    parent,
                    name,
                    truncate,
                    ..
                },
                Reply::Created {
                    attributes,
                    new,
                    private,
                },
            ) => {
                if *new {
                    self.made(*parent, name, attributes);
                } else {
                    self.learn(attributes);
                    self.named(*parent, name, attributes.inode);
                }
                self.opened(attributes, *new || *truncate);
                if *private {
                    self.inodes.get(attributes.inode).state().privacy = Privacy::Private;
                }
            }
            (Operation::Open { truncate, .. }, Reply::Attributes(attributes)) => {
                self.learn(attributes);
                self.opened(attributes, *truncate);
            }
            (Operation::Unlink { parent, name } | Operation::RemoveDirectory { parent, name }, removed) => {
                if let Reply::Removed { attributes, parent } = removed {
                    self.learn(attributes);
                    self.learn(parent);
                    lock(&self.entries).drop_directory(attributes.inode);
                }
                lock(&self.entries).learn(*parent, name, Name::Absent);
            }
            (
                Operation::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode,
                },
                Reply::Renamed { moved, replaced },
            ) => {
                let left = match (mode, replaced) {
                    (RenameMode::Exchange, Some(other)) => Name::Names(other.inode),
                    _ => Name::Absent,
                };
                {
                    let mut entries = lock(&self.entries);
                    entries.learn(*parent, name, left);
                    entries.learn(*new_parent, new_name, Name::Names(moved.inode));
                }
                self.drop_attributes(*parent);
                self.drop_attributes(*new_parent);
                for attributes in std::iter::once(moved).chain(replaced) {
                    self.learn(attributes);
                    let inode = self.inodes.get(attributes.inode);
                    let mut state = inode.state();
                    state.learn_parent(None);
                    // Where it is now others may be told of it.
                    state.own = None;
                }
            }
            (
                Operation::ReadDirectory {
                    directory,
                    after,
                    until,
                    ..
                },
                Reply::Directory {
                    entries,
                    complete,
                    parent,
                },
            ) => {
                self.inodes.get(*directory).state().learn_parent(*parent);
                for attributes in entries.iter().filter_map(|entry| entry.attributes.as_ref()) {
                    self.learn(attributes);
                }
                if self.knows_names(*directory) {
                    let reached = Reached::of(entries, *complete, *until);
                    lock(&self.entries).listed(*directory, *after, entries, reached);
                }
            }
            (Operation::ReadLink { inode }, Reply::Bytes(target)) => {
                self.inodes.get(*inode).state().link_target = Some(target.clone());
            }
            (
                Operation::GetExtents { inode, offset, .. },
                Reply::Extents {
                    extents,
                    covered_until,
                    attributes,
                },
            ) => {
                let inode = self.inodes.get(*inode);
                let mut state = inode.state();
                state.learn(attributes);
                state.extents.learn(*offset, *covered_until, extents);
                drop(state);
                self.reweigh(&inode);
            }
            (Operation::Commit { files, .. }, Reply::Committed { attributes }) => {
                for (file, attributes) in files.iter().zip(attributes) {
                    self.committed(file, attributes);
                }
            }
            (Operation::Allocate { inode, .. }, Reply::Attributes(attributes)) => {
                self.rewritten(*inode, attributes);
            }
            (Operation::CopyRange { destination, .. }, Reply::Copied { attributes, .. }) => {
                self.rewritten(*destination, attributes);
            }
            (Operation::GetExtendedAttribute { inode, name }, Reply::Bytes(value)) => {
                self.inodes
                    .get(*inode)
                    .state()
                    .learn_extended_attribute(name, Ok(value.clone()));
            }
            (
                Operation::SetExtendedAttribute { inode, .. }
                | Operation::RemoveExtendedAttribute { inode, .. },
                Reply::Done,
            ) => self.drop_attributes(*inode),
            (
                Operation::SetLock {
                    inode, lock: granted, ..
                },
                Reply::Done,
            ) => {
                let mut locks = lock(&self.locks);
                locks.granted(*inode, *granted);
                if let Some(logbook) = &self.logbook {
                    logbook.locks_are(*inode, locks.of(*inode));
                }
            }
            (Operation::Release { inode }, _) => self.released(*inode),
            _ => {}
        }
    }

    fn failed(&self, operation: &Operation, errno: Errno) {
        match (operation, errno) {
            (Operation::Lookup { parent, name }, Errno::NotFound) if self.knows_names(*parent) => {
                lock(&self.entries).learn(*parent, name, Name::Absent);
            }
            (Operation::GetExtendedAttribute { inode, name }, Errno::NoData) => {
                self.inodes
                    .get(*inode)
                    .state()
                    .learn_extended_attribute(name, Err(errno));
            }
            (
                Operation::Open {
                    inode,
                    truncate: false,
                },
                Errno::NotFound | Errno::Stale,
            ) => {
                // It was answered from the caches, but the service does not know the inode: only after a lost session.
                let inode = self.inodes.get(*inode);
                let mut state = inode.state();
                state.stale = true;
                state.opens_sent = state.opens_sent.saturating_sub(1);
                state.drop_content();
            }
            (Operation::Release { inode }, _) => self.released(*inode),
            _ => {}
        }
    }

    fn opened(&self, attributes: &Attributes, emptied: bool) {
        let inode = self.inodes.get(attributes.inode);
        let mut state = inode.state();
        state.opens_replied += 1;
        if emptied {
            state.extents = ExtentCache::empty_file();
            // The kernel empties its pages itself.
            state.pages_version = Some(attributes.content_version);
        }
    }

    fn released(&self, number: InodeNumber) {
        if let Some(inode) = self.inodes.find(number) {
            let mut state = inode.state();
            state.opens_replied = state.opens_replied.saturating_sub(1);
        }
    }

    fn committed(&self, file: &FileCommit, attributes: &Attributes) {
        let inode = self.inodes.get(file.inode);
        let mut state = inode.state();
        let before = state.dirty.bytes();
        for write in &file.writes {
            state
                .extents
                .write(write.file_offset, write.length, write.source.clone());
        }
        // In the same step, so that a change by somebody else that follows is not hidden by older bytes of ours.
        state.dirty.settle_written(&file.writes);
        state.committed(attributes);
        let after = state.dirty.bytes();
        drop(state);
        self.budget.adjust(before, after);
        self.reweigh(&inode);
    }

    fn rewritten(&self, number: InodeNumber, attributes: &Attributes) {
        let inode = self.inodes.get(number);
        let mut state = inode.state();
        state.extents = ExtentCache::default();
        state.committed(attributes);
    }

    fn drop_everything(&self) {
        lock(&self.delegations).let_go_of_all();
        for inode in self.inodes.all() {
            inode.state().drop_content();
        }
        lock(&self.entries).clear();
        self.kernel.drop_everything();
    }

    fn drop_item(&self, item: &Invalidation) {
        let (Invalidation::Attributes(inode)
        | Invalidation::Content(inode)
        | Invalidation::Entry(inode, _)
        | Invalidation::Everything(inode)) = item;
        lock(&self.delegations).let_go(*inode);
        match item {
            Invalidation::Attributes(inode) => {
                if let Some(inode) = self.inodes.find(*inode) {
                    let mut state = inode.state();
                    state.drop_attributes();
                    state.learn_parent(None);
                }
            }
            Invalidation::Content(inode) => {
                if let Some(inode) = self.inodes.find(*inode) {
                    inode.state().drop_content();
                }
            }
            Invalidation::Entry(directory, name) => lock(&self.entries).forget(*directory, name),
            Invalidation::Everything(inode) => {
                if let Some(inode) = self.inodes.find(*inode) {
                    inode.state().drop_content();
                }
                lock(&self.entries).drop_directory(*inode);
            }
        }
    }

    /// The files of these items that were private to this client and are no longer: somebody else waits for what was written to
    /// them. From now on closing them waits.
    fn no_longer_private(&self, items: &[Invalidation]) -> Vec<Arc<Inode>> {
        let content = items.iter().filter_map(|item| match item {
            Invalidation::Content(inode) | Invalidation::Everything(inode) => self.inodes.find(*inode),
            Invalidation::Attributes(_) | Invalidation::Entry(..) => None,
        });
        content
            .filter(|inode| {
                let mut state = inode.state();
                let recalled = state.privacy != Privacy::Shared;
                if recalled {
                    state.privacy = Privacy::Recalled;
                }
                recalled
            })
            .collect()
    }

    /// The item as the kernel knows it, if it can know it.
    pub fn for_kernel(&self, item: Invalidation) -> Option<Invalidation> {
        Some(match item {
            Invalidation::Attributes(inode) => Invalidation::Attributes(self.kernel_number(inode)?),
            Invalidation::Content(inode) => Invalidation::Content(self.kernel_number(inode)?),
            Invalidation::Entry(directory, name) => Invalidation::Entry(self.kernel_number(directory)?, name),
            Invalidation::Everything(inode) => Invalidation::Everything(self.kernel_number(inode)?),
        })
    }

    /// Has the kernel drop the pages of an inode whose writes were given up: they hold what was never stored.
    pub fn drop_kernel_pages(&self, number: InodeNumber) {
        if let Some(item) = self.for_kernel(Invalidation::Content(number)) {
            self.kernel.invalidate(vec![item], Box::new(|| {}));
        }
    }
}

impl SessionHandler for Caches {
    fn replied(&self, operation: &Operation, result: &Result<Reply, Errno>, directories: &[Attributes]) {
        match result {
            Ok(reply) => self.succeeded(operation, reply),
            Err(errno) => self.failed(operation, *errno),
        }
        for directory in directories {
            self.learn(directory);
        }
    }

    fn replied_early(
        &self,
        number: RequestNumber,
        operation: &Operation,
        result: &Result<Reply, Errno>,
        directories: &[Attributes],
    ) {
        self.executed_early(number, operation, result, directories);
    }

    fn delegated(&self, operation: &Operation, result: &Result<Reply, Errno>, delegated: &Delegated) {
        self.now_delegated(operation, result, delegated);
    }

    fn recalled(&self, number: u64, directories: &[InodeNumber]) {
        let core = self.core();
        if !core
            .as_ref()
            .is_some_and(|core| core.options.has(Fault::AnswerAfterRecall))
        {
            self.give_back(directories);
        }
        if let Some(core) = core {
            core.session.returned(number);
        }
    }

    fn takes_delegations(&self) -> bool {
        true
    }

    fn superseded(&self, items: &[Invalidation]) {
        for item in items {
            self.drop_item(item);
        }
        // The kernel was told when they changed. Since then it may have read pages that this client's own bytes covered, as
        // nobody here knew yet which of the two writes came last.
        let items = items
            .iter()
            .filter_map(|item| self.for_kernel(item.clone()))
            .collect();
        self.kernel.invalidate(items, Box::new(|| {}));
    }

    fn invalidated(&self, number: u64, items: Vec<Invalidation>) {
        let recalled = self.no_longer_private(&items);
        for item in &items {
            self.drop_item(item);
        }
        let core = self.core.get().cloned();
        let acknowledge = Box::new(move || {
            if let Some(core) = core.and_then(|core| core.upgrade()) {
                core.acknowledge_when_stored(number, recalled);
            }
        });
        if items.is_empty() {
            self.kernel.when_dropped(acknowledge);
            return;
        }
        let items = items
            .into_iter()
            .filter_map(|item| self.for_kernel(item))
            .collect();
        self.kernel.invalidate(items, acknowledge);
    }

    fn disconnected(&self) {
        self.drop_everything();
    }

    fn tasks(&self, tasks: Vec<Task>) {
        self.tasks.tasks(tasks);
    }

    fn synchronise(&self, after: Option<ObjectId>) {
        self.tasks.synchronise(after);
    }

    fn format_changed(&self, format: &VolumeFormat) {
        self.tasks.format_changed(format);
    }

    fn expired(&self) {
        self.drop_everything();
        lock(&self.delegations).expired();
        let mut open = Vec::new();
        for inode in self.inodes.all() {
            let mut state = inode.state();
            let before = state.dirty.bytes();
            let had_deferred = state.deferred.take().is_some();
            let had_early = std::mem::take(&mut state.early) > 0;
            if state.dirty.clear() || had_deferred || had_early {
                state.error = Some(Errno::InputOutput);
                self.record_failure(inode.number, state.error);
            }
            state.opens_replied = 0;
            state.opens_sent = 0;
            state.privacy = Privacy::Shared;
            let is_open = state.handles > 0 && !state.stale;
            drop(state);
            self.budget.adjust(before, 0);
            inode.progress.notify_waiters();
            if is_open {
                open.push(inode);
            }
        }
        // Whoever relied on a lock must hear that it is lost.
        for number in lock(&self.locks).take_inodes() {
            self.inodes.get(number).state().error = Some(Errno::InputOutput);
            self.record_failure(number, Some(Errno::InputOutput));
        }
        if let Some(core) = self.core() {
            core.reopen(open);
        }
    }

    fn held(&self) -> Reclaim {
        let opens = self
            .inodes
            .all()
            .into_iter()
            .filter_map(|inode| {
                let times = inode.state().opens_replied;
                (times > 0).then_some((inode.number, times))
            })
            .collect();
        Reclaim {
            opens,
            locks: lock(&self.locks).all(),
            complete: true,
        }
    }
}
