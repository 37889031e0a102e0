//! Attributes, extended attributes, symbolic links' targets, `statfs`.

use std::sync::Arc;

use bytes::Bytes;
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::operation::SetMode;
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, unexpected};
use super::inode::Inode;
use super::interface::{Attributed, Usage};
use super::write_out::Urgency;

impl Vfs {
    /// Leased attributes.
    pub fn cached_attributes(&self, inode: InodeNumber) -> Option<Attributed> {
        let inode = self.core.caches.inodes.find(self.core.caches.real(inode))?;
        self.core.leased_attributes(&inode)
    }

    /// Attributes, with what this client has written.
    pub async fn attributes(&self, caller: Caller, inode: InodeNumber) -> Result<Attributed, Errno> {
        if let Some(attributed) = self.cached_attributes(inode) {
            return Ok(attributed);
        }
        let inode = self.core.caches.real(inode);
        match self.core.ask(caller, Operation::GetAttributes { inode }).await? {
            Reply::Attributes(attributes) => Ok(self.core.attributed_reply(&attributes)),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Self::set_attributes`], if that can be answered at once.
    pub fn try_set_attributes(
        &self,
        caller: &Caller,
        inode: InodeNumber,
        changes: &AttributeChanges,
    ) -> Option<Attributed> {
        let core = &self.core;
        let number = core.caches.real(inode);
        let set = core.set_attributes_early(caller, number, changes)?;
        let inode = core.caches.inodes.get(number);
        let attributed = core.attributed(&inode.state(), &set);
        Some(attributed)
    }

    /// Changes attributes.
    ///
    /// What was written before is stored before: a time that a program sets stays, privileges that it sets are not cleared
    /// by an older write, and a size that it sets cuts what was written.
    pub async fn set_attributes(
        &self,
        caller: Caller,
        inode: InodeNumber,
        changes: AttributeChanges,
    ) -> Result<Attributed, Errno> {
        if let Some(attributed) = self.try_set_attributes(&caller, inode, &changes) {
            return Ok(attributed);
        }
        let core = &self.core;
        core.check_writable()?;
        let inode = core.inode(inode);
        {
            let mut state = inode.state();
            if state.defer(&caller, &changes, (core.options.clock)())
                && let Some(attributes) = state.attributes
            {
                core.record_deferred(&inode, state.deferred.as_ref());
                return Ok(core.attributed(&state, &attributes));
            }
        }
        let only_access = AttributeChanges {
            accessed: changes.accessed,
            ..AttributeChanges::default()
        };
        let _turn = if changes == only_access || core.is_inherited() {
            None
        } else {
            let turn = inode.turn.lock().await;
            if let Some(size) = changes.size_bytes {
                core.cut_unwritten(&inode, size);
            }
            let known = inode.state().error.is_some();
            core.write_out_in_turn(&inode, &turn, Urgency::Flush).await;
            // What could not be written before is not followed by what would have come after it: a program that replaces the
            // content and then cuts it would leave the old content, cut. `fsync` and `close` tell it, too.
            if let (Some(_), false, Some(errno)) = (changes.size_bytes, known, inode.state().error) {
                return Err(errno);
            }
            Some(turn)
        };
        match core
            .ask(
                caller,
                Operation::SetAttributes {
                    inode: inode.number,
                    changes,
                },
            )
            .await?
        {
            Reply::Attributes(attributes) => Ok(core.attributed(&inode.state(), &attributes)),
            other => Err(unexpected(&other)),
        }
    }

    /// The target of a symbolic link, if it was read before.
    pub fn cached_link_target(&self, inode: InodeNumber) -> Option<Bytes> {
        let inode = self.core.caches.inodes.find(self.core.caches.real(inode))?;
        inode.state().link_target.clone()
    }

    /// The target of a symbolic link.
    pub async fn read_link(&self, caller: Caller, inode: InodeNumber) -> Result<Bytes, Errno> {
        if let Some(target) = self.cached_link_target(inode) {
            return Ok(target);
        }
        match self
            .core
            .ask(
                caller,
                Operation::ReadLink {
                    inode: self.core.caches.real(inode),
                },
            )
            .await?
        {
            Reply::Bytes(target) => Ok(target),
            other => Err(unexpected(&other)),
        }
    }

    /// `statfs`.
    pub async fn usage(&self, caller: Caller, inode: InodeNumber) -> Result<Usage, Errno> {
        match self
            .core
            .ask(
                caller,
                Operation::StatFileSystem {
                    inode: self.core.caches.real(inode),
                },
            )
            .await?
        {
            Reply::FileSystem(usage) => Ok(usage),
            other => Err(unexpected(&other)),
        }
    }

    /// A leased extended attribute, or its absence.
    pub fn cached_extended_attribute(&self, inode: InodeNumber, name: &[u8]) -> Option<Result<Bytes, Errno>> {
        if !self.core.session.lease_is_valid() {
            return None;
        }
        let inode = self.core.caches.inodes.find(self.core.caches.real(inode))?;
        inode.state().extended_attribute(name)
    }

    /// The value of an extended attribute.
    pub async fn extended_attribute(
        &self,
        caller: Caller,
        inode: InodeNumber,
        name: Bytes,
    ) -> Result<Bytes, Errno> {
        if let Some(answer) = self.cached_extended_attribute(inode, &name) {
            return answer;
        }
        let inode = self.core.caches.real(inode);
        match self
            .core
            .ask(caller, Operation::GetExtendedAttribute { inode, name })
            .await?
        {
            Reply::Bytes(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets an extended attribute.
    pub async fn set_extended_attribute(
        &self,
        caller: Caller,
        inode: InodeNumber,
        name: Bytes,
        value: Bytes,
        mode: SetMode,
    ) -> Result<(), Errno> {
        let inode = self.core.caches.real(inode);
        self.done(
            caller,
            Operation::SetExtendedAttribute {
                inode,
                name,
                value,
                mode,
            },
        )
        .await
    }

    /// Is it known that there are no extended attributes?
    pub fn has_no_extended_attributes(&self, inode: InodeNumber) -> bool {
        let inode = self.core.caches.inodes.find(self.core.caches.real(inode));
        self.core.session.lease_is_valid()
            && inode.is_some_and(|inode| inode.state().has_no_extended_attributes())
    }

    /// The names of the extended attributes.
    pub async fn extended_attributes(&self, caller: Caller, inode: InodeNumber) -> Result<Vec<Bytes>, Errno> {
        if self.has_no_extended_attributes(inode) {
            return Ok(Vec::new());
        }
        let inode = self.core.caches.real(inode);
        match self
            .core
            .ask(caller, Operation::ListExtendedAttributes { inode })
            .await?
        {
            Reply::Names(names) => Ok(names.into_iter().map(|name| name.0).collect()),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes an extended attribute.
    pub async fn remove_extended_attribute(
        &self,
        caller: Caller,
        inode: InodeNumber,
        name: Bytes,
    ) -> Result<(), Errno> {
        let inode = self.core.caches.real(inode);
        self.done(caller, Operation::RemoveExtendedAttribute { inode, name })
            .await
    }

    async fn done(&self, caller: Caller, operation: Operation) -> Result<(), Errno> {
        self.core.check_writable()?;
        match self.core.ask(caller, operation).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

impl Core {
    /// What was written beyond the new size is not to be stored any more.
    fn cut_unwritten(self: &Arc<Self>, inode: &Inode, size: u64) {
        let mut state = inode.state();
        let before = state.dirty.bytes();
        state.dirty.truncate(size);
        if let Some(logbook) = self.logbook() {
            logbook.cut(inode.number, size);
        }
        let after = state.dirty.bytes();
        drop(state);
        self.caches.budget.adjust(before, after);
    }
}
