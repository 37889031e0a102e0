//! Writing answers to the kernel: what each reply carries, and for how long the kernel may keep it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEntry, ReplyStatfs, ReplyXattr,
};
use twinshore_protocol::{Caller, Errno, InodeNumber};

use super::convert::{self, node};
use super::freshness::Verdict;
use super::listing::{PLAIN_HEADER_BYTES, PLUS_HEADER_BYTES, fill};
use crate::vfs::{Attributed, DirectoryPage, Found, Handle, ListedEntry, Opened, Usage, Vfs};

/// Entries asked for at a time: what fits into the 32 KiB that the C library asks for, at usual lengths of names.
pub(super) const PLAIN_PAGE_ENTRIES: usize = 1024;
pub(super) const PLUS_PAGE_ENTRIES: usize = 256;

/// What `statfs` shows as free where there is no quota: object stores have no end, and programs want one.
const FREE_BYTES_WITHOUT_LIMIT: u64 = 1 << 50;
const FREE_INODES_WITHOUT_LIMIT: u64 = 1 << 40;
const STATFS_BLOCK_BYTES: u32 = 4096;

/// Inode numbers are never used twice, so there is one generation.
const GENERATION: Generation = Generation(0);

pub(super) fn open_reply_flags(opened: Opened) -> FopenFlags {
    if opened.keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}

pub(super) fn answer_entry(
    reply: ReplyEntry,
    verdict: &Verdict<'_>,
    parent: InodeNumber,
    found: &Found,
    max: Duration,
) {
    match found {
        Found::Entry(Attributed {
            attributes,
            time_to_live,
        }) => {
            let offered = (*time_to_live).min(max);
            let attributes_live = verdict.time_to_live(offered, &[attributes.inode]);
            let entry_lives = verdict.time_to_live(offered, &[parent, attributes.inode]);
            reply.entry_with_ttls(
                &attributes_live,
                &entry_lives,
                &convert::attributes(attributes),
                GENERATION,
            );
        }
        Found::Absent(time_to_live) => {
            let lives = verdict.time_to_live((*time_to_live).min(max), &[parent]);
            if lives.is_zero() {
                reply.error(fuser::Errno::ENOENT);
            } else {
                reply.entry_with_ttls(&Duration::ZERO, &lives, &convert::absent(), GENERATION);
            }
        }
    }
}

pub(super) fn answer_attributes(
    reply: ReplyAttr,
    verdict: &Verdict<'_>,
    attributed: &Attributed,
    max: Duration,
) {
    let lives = verdict.time_to_live(attributed.time_to_live.min(max), &[attributed.attributes.inode]);
    reply.attr(&lives, &convert::attributes(&attributed.attributes));
}

/// `create` has one time to live for the entry and the attributes.
pub(super) fn answer_created(
    reply: ReplyCreate,
    verdict: &Verdict<'_>,
    parent: InodeNumber,
    attributed: &Attributed,
    opened: Opened,
    max: Duration,
) {
    let Attributed {
        attributes,
        time_to_live,
    } = attributed;
    let lives = verdict.time_to_live((*time_to_live).min(max), &[parent, attributes.inode]);
    let flags = open_reply_flags(opened);
    reply.created(
        &lives,
        &convert::attributes(attributes),
        GENERATION,
        FileHandle(opened.handle.0),
        flags,
    );
}

/// `getxattr` and `listxattr`: size 0 asks for the size.
pub(super) fn answer_value(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(fuser::Errno::ERANGE),
    }
}

pub(super) fn answer_usage(reply: ReplyStatfs, usage: &Usage) {
    let block = u64::from(STATFS_BLOCK_BYTES);
    let free_bytes = usage.limit_bytes.map_or(FREE_BYTES_WITHOUT_LIMIT, |limit| {
        limit.saturating_sub(usage.used_bytes)
    });
    let free_inodes = usage.limit_inodes.map_or(FREE_INODES_WITHOUT_LIMIT, |limit| {
        limit.saturating_sub(usage.used_inodes)
    });
    let free = free_bytes / block;
    let name_max = u32::try_from(twinshore_protocol::name::NAME_MAX_BYTES).unwrap_or(u32::MAX);
    reply.statfs(
        usage.used_bytes.div_ceil(block) + free,
        free,
        free,
        usage.used_inodes + free_inodes,
        free_inodes,
        STATFS_BLOCK_BYTES,
        name_max,
        STATFS_BLOCK_BYTES,
    );
}

pub(super) fn answer_page(
    mut reply: ReplyDirectory,
    directory: InodeNumber,
    offset: u64,
    page: &DirectoryPage,
) {
    let mut used = 0;
    for (cookie, name, number) in [(1, ".", directory), (2, "..", page.parent)] {
        if offset < cookie {
            let _ = reply.add(node(number), cookie, fuser::FileType::Directory, name);
            used += 32;
        }
    }
    fill(&page.entries, used, PLAIN_HEADER_BYTES, |entry| {
        reply.add(
            node(entry.inode),
            entry.cookie,
            convert::kind(entry.kind),
            OsStr::from_bytes(entry.name.as_bytes()),
        )
    });
    reply.ok();
}

/// An entry with attributes, as `readdirplus` needs it.
pub(super) struct PlusPage {
    /// The directory itself.
    pub(super) directory: Attributed,
    /// `..`.
    pub(super) parent: InodeNumber,
    /// Its entries.
    pub(super) entries: Vec<ListedEntry>,
}

pub(super) fn answer_plus_page(
    mut reply: ReplyDirectoryPlus,
    verdict: &Verdict<'_>,
    directory: InodeNumber,
    offset: u64,
    page: &PlusPage,
    max: Duration,
) {
    let mut used = 0;
    for (cookie, name, number) in [(1, ".", directory), (2, "..", page.parent)] {
        if offset < cookie {
            // The kernel takes neither attributes nor names of these two into its caches. What it shows is the number in the
            // attributes.
            let attributes = fuser::FileAttr {
                ino: node(number),
                ..convert::attributes(&page.directory.attributes)
            };
            let _ = reply.add(
                node(number),
                cookie,
                name,
                &Duration::ZERO,
                &attributes,
                GENERATION,
            );
            used += 160;
        }
    }
    fill(&page.entries, used, PLUS_HEADER_BYTES, |entry| {
        // An entry without attributes cannot be told of: the buffer ends before it, and the next one begins with it.
        let Some(attributed) = &entry.attributes else {
            return true;
        };
        let lives = verdict.time_to_live(attributed.time_to_live.min(max), &[directory, entry.inode]);
        let name = OsStr::from_bytes(entry.name.as_bytes());
        reply.add(
            node(entry.inode),
            entry.cookie,
            name,
            &lives,
            &convert::attributes(&attributed.attributes),
            GENERATION,
        )
    });
    reply.ok();
}

/// A page in which each entry has attributes: where the listing did not bring them, they are asked for.
pub(super) async fn plus_page(
    vfs: Vfs,
    caller: Caller,
    directory: InodeNumber,
    handle: Handle,
    offset: u64,
) -> Result<PlusPage, Errno> {
    let itself = vfs.attributes(caller.clone(), directory).await?;
    let page = vfs
        .list(caller.clone(), directory, handle, offset, PLUS_PAGE_ENTRIES, true)
        .await?;
    let DirectoryPage {
        entries: listed,
        parent,
        ..
    } = page;
    let mut entries = Vec::with_capacity(listed.len());
    for mut entry in listed {
        if entry.attributes.is_none() {
            match vfs.attributes(caller.clone(), entry.inode).await {
                Ok(attributed) => entry.attributes = Some(attributed),
                // Removed since it was listed.
                Err(Errno::NotFound | Errno::Stale) => continue,
                Err(error) => return Err(error),
            }
        }
        entries.push(entry);
    }
    Ok(PlusPage {
        directory: itself,
        parent,
        entries,
    })
}
