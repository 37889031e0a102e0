//! Each operation, as Linux does it on a local file system.

use twinshore_protocol::{Errno, Operation, Reply};

use super::claims;
use super::transaction::{Attempt, Transaction};

mod allocate;
mod attributes;
mod commit;
mod copy;
mod create;
mod directory;
mod link;
mod lookup;
mod objects;
mod remove;
mod rename;
mod repoint;
mod seek;
mod xattr;

#[allow(clippy::too_many_lines)] // A table: one arm for each operation.
pub(super) fn execute(t: &mut Transaction<'_>, operation: &Operation) -> Attempt<Reply> {
    match operation {
        Operation::Lookup { parent, name } => lookup::lookup(t, *parent, name),
        Operation::GetAttributes { inode } => lookup::get_attributes(t, *inode),
        Operation::ReadLink { inode } => lookup::read_link(t, *inode),
        Operation::ReadDirectory {
            directory,
            after,
            limit,
            with_attributes,
            until,
        } => directory::read(t, *directory, *after, *until, *limit, *with_attributes),
        Operation::SetAttributes { inode, changes } => attributes::set(t, *inode, changes),
        Operation::Open { inode, truncate } => attributes::open(t, *inode, *truncate),
        Operation::MakeNode {
            parent,
            name,
            new,
            kind,
            device,
        } => create::make_node(t, *parent, name, *new, *kind, *device),
        Operation::MakeDirectory { parent, name, new } => create::make_directory(t, *parent, name, *new),
        Operation::Create {
            parent,
            name,
            new,
            exclusive,
            truncate,
        } => create::create(t, *parent, name, *new, *exclusive, *truncate),
        Operation::SymbolicLink {
            parent,
            name,
            inode,
            target,
        } => create::symbolic_link(t, *parent, name, *inode, target),
        Operation::Link { inode, parent, name } => link::link(t, *inode, *parent, name),
        Operation::Unlink { parent, name } => remove::unlink(t, *parent, name),
        Operation::RemoveDirectory { parent, name } => remove::remove_directory(t, *parent, name),
        Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
        } => rename::rename(t, (*parent, name), (*new_parent, new_name), *mode),
        Operation::GetExtents {
            inode,
            offset,
            length,
        } => seek::get_extents(t, *inode, *offset, *length),
        Operation::Seek {
            inode,
            offset,
            target,
        } => seek::seek(t, *inode, *offset, *target),
        Operation::Commit { objects, files } => commit::commit(t, objects, files),
        Operation::Allocate {
            inode,
            offset,
            length,
            mode,
        } => allocate::allocate(t, *inode, *offset, *length, *mode),
        Operation::CopyRange {
            source,
            source_offset,
            destination,
            destination_offset,
            length,
        } => copy::copy_range(
            t,
            (*source, *source_offset),
            (*destination, *destination_offset),
            *length,
        ),
        Operation::Repoint { objects, exchanges } => repoint::repoint(t, objects, exchanges),
        Operation::ListInline { limit_bytes } => repoint::list_inline(t, *limit_bytes),
        Operation::GetExtendedAttribute { inode, name } => xattr::get(t, *inode, name),
        Operation::SetExtendedAttribute {
            inode,
            name,
            value,
            mode,
        } => xattr::set(t, *inode, name, value, *mode),
        Operation::ListExtendedAttributes { inode } => xattr::list(t, *inode),
        Operation::RemoveExtendedAttribute { inode, name } => xattr::remove(t, *inode, name),
        Operation::StatFileSystem { inode } => t.file_system_usage(*inode),
        Operation::GetUsage { directory } => t.usage_of(*directory),
        Operation::SetQuota {
            directory,
            limit_bytes,
            limit_inodes,
        } => t.set_quota(*directory, *limit_bytes, *limit_inodes),
        Operation::ListTrash { after, limit } => t.list_trash(*after, *limit),
        Operation::RestoreTrash { inode, to } => t.restore(*inode, to.as_ref()),
        Operation::PurgeTrash { before } => t.purge(*before),
        Operation::SetSettings { settings } => t.set_settings(settings),
        Operation::GrantNumbers => t.grant_numbers(),
        Operation::ListObjects { after, limit } => objects::list(t, *after, *limit),
        Operation::ReportCopies { reports } => t.report_copies(reports),
        Operation::ReportSynchronisation { report } => t.report_synchronisation(report),
        Operation::RequestSynchronisation => t.request_synchronisation(),
        Operation::ClaimDirectory(_)
        | Operation::ReleaseClaim { .. }
        | Operation::GetClaim { .. }
        | Operation::ListClaims { .. }
        | Operation::ResizeClaim { .. }
        | Operation::CreateSnapshot { .. }
        | Operation::DeleteSnapshot { .. }
        | Operation::GetSnapshot { .. }
        | Operation::ListSnapshots { .. }
        | Operation::HoldAccess { .. }
        | Operation::ReleaseAccess { .. }
        | Operation::ListAccess { .. } => claims::execute(t, operation),
        // The service answers these from its memory; they never come here.
        Operation::Release { .. }
        | Operation::GetLock { .. }
        | Operation::SetLock { .. }
        | Operation::CancelLock { .. }
        | Operation::GetStatus
        | Operation::ListCompaction { .. }
        | Operation::RequestCompaction => Err(Errno::NotImplemented.into()),
    }
}
