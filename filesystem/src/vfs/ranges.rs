//! Operations on ranges of files that the service carries out on extents: `fallocate`, `copy_file_range`, `lseek`.
//!
//! What was written before is stored before: the service knows only what is committed.

use std::sync::Arc;

use twinshore_protocol::operation::{AllocateMode, SeekTarget};
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply};

use super::Vfs;
use super::core::{Core, unexpected};
use super::inode::Inode;
use super::write_out::Urgency;

impl Vfs {
    /// `fallocate`.
    pub async fn allocate(
        &self,
        caller: Caller,
        inode: InodeNumber,
        offset: u64,
        length: u64,
        mode: AllocateMode,
    ) -> Result<(), Errno> {
        let core = &self.core;
        core.check_writable()?;
        let inode = core.inode(inode);
        let turn = inode.turn.lock().await;
        core.write_out_in_turn(&inode, &turn, Urgency::Flush).await;
        core.fail_on_loss(&inode)?;
        match core
            .ask(
                caller,
                Operation::Allocate {
                    inode: inode.number,
                    offset,
                    length,
                    mode,
                },
            )
            .await?
        {
            Reply::Attributes(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    pub async fn seek(
        &self,
        caller: Caller,
        inode: InodeNumber,
        offset: u64,
        target: SeekTarget,
    ) -> Result<u64, Errno> {
        let core = &self.core;
        let inode = core.inode(inode);
        core.write_out(&inode, Urgency::Flush).await;
        core.fail_on_loss(&inode)?;
        match core
            .ask(
                caller,
                Operation::Seek {
                    inode: inode.number,
                    offset,
                    target,
                },
            )
            .await?
        {
            Reply::Offset(offset) => Ok(offset),
            other => Err(unexpected(&other)),
        }
    }

    /// `copy_file_range`: returns how many bytes were copied, 0 at the source's end.
    pub async fn copy_range(
        &self,
        caller: Caller,
        source: InodeNumber,
        source_offset: u64,
        destination: InodeNumber,
        destination_offset: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let core = &self.core;
        core.check_writable()?;
        let (source, destination) = (core.inode(source), core.inode(destination));
        core.write_out(&source, Urgency::Flush).await;
        core.fail_on_loss(&source)?;
        let turn = destination.turn.lock().await;
        core.write_out_in_turn(&destination, &turn, Urgency::Flush).await;
        core.fail_on_loss(&destination)?;
        let operation = Operation::CopyRange {
            source: source.number,
            source_offset,
            destination: destination.number,
            destination_offset,
            length,
        };
        match core.ask(caller, operation).await? {
            Reply::Copied { length, .. } => Ok(length),
            other => Err(unexpected(&other)),
        }
    }
}

impl Core {
    /// Data that could not be stored must not be taken for a hole, or copied as if it had never been. The error stays, for
    /// `fsync` and `close`.
    #[allow(clippy::unused_self)]
    fn fail_on_loss(self: &Arc<Self>, inode: &Inode) -> Result<(), Errno> {
        inode.state().error.map_or(Ok(()), Err)
    }
}
