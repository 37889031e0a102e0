//! Names: finding, making, removing and moving them.

use bytes::Bytes;
use twinshore_protocol::operation::{NewInode, RenameMode};
use twinshore_protocol::{Caller, Errno, FileName, FileType, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::unexpected;
use super::early::Made;
use super::entries::Name;
use super::inode::lock;
use super::interface::{Attributed, Found};

/// The longest target of a symbolic link (`PATH_MAX` without the NUL).
const TARGET_MAX_BYTES: usize = 4095;

impl Vfs {
    /// What a name names, if it is leased.
    pub fn cached_lookup(&self, parent: InodeNumber, name: &FileName) -> Option<Found> {
        let core = &self.core;
        let remaining = core.session.lease_remaining();
        if remaining.is_zero() {
            return None;
        }
        let known = lock(&core.caches.entries).get(core.caches.real(parent), name);
        match known {
            Name::Unknown => None,
            Name::Absent => Some(Found::Absent(remaining)),
            Name::Names(number) => {
                let inode = core.caches.inodes.find(number)?;
                core.leased_attributes(&inode).map(Found::Entry)
            }
        }
    }

    /// What a name names.
    pub async fn lookup(&self, caller: Caller, parent: InodeNumber, name: FileName) -> Result<Found, Errno> {
        if let Some(found) = self.cached_lookup(parent, &name) {
            return Ok(found);
        }
        let core = &self.core;
        let parent = core.caches.real(parent);
        match core
            .ask(
                caller,
                Operation::Lookup {
                    parent,
                    name: name.clone(),
                },
            )
            .await
        {
            Ok(Reply::Entry(attributes)) => Ok(Found::Entry(core.attributed_reply(&attributes))),
            Ok(other) => Err(unexpected(&other)),
            Err(Errno::NotFound) => {
                let leased = lock(&core.caches.entries).get(parent, &name) == Name::Absent;
                Ok(Found::Absent(if leased {
                    core.session.lease_remaining()
                } else {
                    std::time::Duration::ZERO
                }))
            }
            Err(errno) => Err(errno),
        }
    }

    async fn entry(&self, caller: Caller, operation: Operation) -> Result<Attributed, Errno> {
        match self.core.ask(caller, operation).await? {
            Reply::Entry(attributes) => Ok(self.core.attributed_reply(&attributes)),
            other => Err(unexpected(&other)),
        }
    }

    async fn new_number(&self) -> Result<InodeNumber, Errno> {
        self.core.check_writable()?;
        self.core
            .session
            .take_inode()
            .await
            .map_err(|error| error.errno())
    }

    /// Makes an inode, if that can be answered at once.
    fn try_make(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        mode_and_umask: (u16, u16),
        made: &Made,
    ) -> Option<Attributed> {
        let core = &self.core;
        let parent = core.caches.real(parent);
        let (inode, attributes) = core.make_early(caller, parent, name, mode_and_umask, made)?;
        Some(core.attributed(&inode.state(), &attributes))
    }

    /// [`Self::make_node`], if that can be answered at once.
    pub fn try_make_node(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        mode_and_umask: (u16, u16),
        kind: FileType,
    ) -> Option<Attributed> {
        let is_plain = matches!(kind, FileType::Regular | FileType::Fifo | FileType::Socket);
        if !is_plain {
            return None;
        }
        self.try_make(caller, parent, name, mode_and_umask, &Made::Node(kind))
    }

    /// [`Self::make_directory`], if that can be answered at once.
    pub fn try_make_directory(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        mode_and_umask: (u16, u16),
    ) -> Option<Attributed> {
        self.try_make(caller, parent, name, mode_and_umask, &Made::Directory)
    }

    /// [`Self::symbolic_link`], if that can be answered at once.
    pub fn try_symbolic_link(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &FileName,
        target: &Bytes,
    ) -> Option<Attributed> {
        // Shorter ones and longer ones are the service's to refuse.
        if !(1..=TARGET_MAX_BYTES).contains(&target.len()) {
            return None;
        }
        self.try_make(caller, parent, name, (0o777, 0), &Made::Link(target.clone()))
    }

    /// [`Self::unlink`], if that can be answered at once.
    pub fn try_unlink(&self, caller: &Caller, parent: InodeNumber, name: &FileName) -> Option<()> {
        self.core
            .unlink_early(caller, self.core.caches.real(parent), name)
    }

    /// [`Self::remove_directory`], if that can be answered at once.
    pub fn try_remove_directory(&self, caller: &Caller, parent: InodeNumber, name: &FileName) -> Option<()> {
        self.core
            .remove_directory_early(caller, self.core.caches.real(parent), name)
    }

    /// [`Self::rename`], if that can be answered at once.
    pub fn try_rename(
        &self,
        caller: &Caller,
        (parent, name): (InodeNumber, &FileName),
        (new_parent, new_name): (InodeNumber, &FileName),
        mode: RenameMode,
    ) -> Option<()> {
        if parent != new_parent {
            return None;
        }
        let parent = self.core.caches.real(parent);
        self.core.rename_early(caller, parent, name, new_name, mode)
    }

    /// Makes a regular file without opening it, a pipe, a socket or a device.
    #[allow(clippy::too_many_arguments)] // They are the system call's.
    pub async fn make_node(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
        mode: u16,
        umask: u16,
        kind: FileType,
        device: u32,
    ) -> Result<Attributed, Errno> {
        if let Some(made) = self.try_make_node(&caller, parent, &name, (mode, umask), kind) {
            return Ok(made);
        }
        let _changing = self.core.changing_names();
        let new = NewInode {
            inode: self.new_number().await?,
            mode,
            umask,
        };
        let parent = self.core.caches.real(parent);
        self.entry(
            caller,
            Operation::MakeNode {
                parent,
                name,
                new,
                kind,
                device,
            },
        )
        .await
    }

    /// Makes a directory.
    pub async fn make_directory(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
        mode: u16,
        umask: u16,
    ) -> Result<Attributed, Errno> {
        if let Some(made) = self.try_make_directory(&caller, parent, &name, (mode, umask)) {
            return Ok(made);
        }
        let _changing = self.core.changing_names();
        let new = NewInode {
            inode: self.new_number().await?,
            mode,
            umask,
        };
        let parent = self.core.caches.real(parent);
        self.entry(caller, Operation::MakeDirectory { parent, name, new })
            .await
    }

    /// Makes a symbolic link.
    pub async fn symbolic_link(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
        target: Bytes,
    ) -> Result<Attributed, Errno> {
        if let Some(made) = self.try_symbolic_link(&caller, parent, &name, &target) {
            return Ok(made);
        }
        let _changing = self.core.changing_names();
        let inode = self.new_number().await?;
        let parent = self.core.caches.real(parent);
        self.entry(
            caller,
            Operation::SymbolicLink {
                parent,
                name,
                inode,
                target,
            },
        )
        .await
    }

    /// Gives an inode another name.
    pub async fn link(
        &self,
        caller: Caller,
        inode: InodeNumber,
        parent: InodeNumber,
        name: FileName,
    ) -> Result<Attributed, Errno> {
        self.core.check_writable()?;
        let _changing = self.core.changing_names();
        let caches = &self.core.caches;
        let (inode, parent) = (caches.real(inode), caches.real(parent));
        // By its new name others may be told of it.
        if let Some(inode) = caches.inodes.find(inode) {
            inode.state().own = None;
        }
        self.entry(caller, Operation::Link { inode, parent, name }).await
    }

    async fn remove(&self, caller: Caller, operation: Operation) -> Result<(), Errno> {
        self.core.check_writable()?;
        let _changing = self.core.changing_names();
        match self.core.ask(caller, operation).await? {
            Reply::Removed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes a name of a file.
    pub async fn unlink(&self, caller: Caller, parent: InodeNumber, name: FileName) -> Result<(), Errno> {
        if self.try_unlink(&caller, parent, &name).is_some() {
            return Ok(());
        }
        let parent = self.core.caches.real(parent);
        self.remove(caller, Operation::Unlink { parent, name }).await
    }

    /// Removes an empty directory.
    pub async fn remove_directory(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
    ) -> Result<(), Errno> {
        if self.try_remove_directory(&caller, parent, &name).is_some() {
            return Ok(());
        }
        let parent = self.core.caches.real(parent);
        self.remove(caller, Operation::RemoveDirectory { parent, name })
            .await
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: FileName,
        new_parent: InodeNumber,
        new_name: FileName,
        mode: RenameMode,
    ) -> Result<(), Errno> {
        self.core.check_writable()?;
        let (old, new) = ((parent, &name), (new_parent, &new_name));
        if self.try_rename(&caller, old, new, mode).is_some() {
            return Ok(());
        }
        let _changing = self.core.changing_names();
        let caches = &self.core.caches;
        let (parent, new_parent) = (caches.real(parent), caches.real(new_parent));
        match self
            .core
            .ask(
                caller,
                Operation::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode,
                },
            )
            .await?
        {
            Reply::Renamed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
