//! Names: finding, making, removing and moving them.

use bytes::Bytes;
use twinshore_protocol::operation::{NewInode, RenameMode};
use twinshore_protocol::{Caller, Errno, FileName, FileType, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::unexpected;
use super::entries::Name;
use super::inode::lock;
use super::interface::{Attributed, Found};

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
