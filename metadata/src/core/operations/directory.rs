//! Listing a directory by cookies, which are hashes of names: they stay valid while the directory changes.

use twinshore_protocol::reply::DirectoryEntry;
use twinshore_protocol::{InodeNumber, Reply};

use crate::core::keys::{self, KeyReader};
use crate::core::transaction::{Attempt, Transaction, corrupt, decode};
use crate::core::values::{EntryRow, Place};

/// The longest page: at about 400 bytes for an entry with attributes it stays well below the largest message.
const PAGE_MAX: usize = 4096;

pub fn read(
    t: &mut Transaction<'_>,
    directory: InodeNumber,
    after: u64,
    until: Option<u64>,
    limit: u32,
    with_attributes: bool,
) -> Attempt<Reply> {
    // A directory that has lost its name can still be open; it is empty.
    let row = t.inode(directory)?;
    if !row.is_directory() {
        return Err(twinshore_protocol::Errno::NotDirectory.into());
    }
    let limit = usize::try_from(limit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let end = match until.and_then(|until| until.checked_add(1)) {
        Some(beyond) => keys::entries_from(directory, beyond),
        None => keys::after_prefix(&keys::of(keys::ENTRY, directory.0)),
    };
    let mut rows = t.scan(
        &keys::entries_from(directory, after.saturating_add(1)),
        &end,
        limit + 1,
    )?;
    let mut complete = rows.len() <= limit;
    if !complete {
        rows.truncate(limit);
        // Entries with the cookie of the last one belong to this page too: the next one begins after the cookie.
        let last = rows.last().and_then(|(key, _)| cookie_of(key));
        let rest_start = rows.last().map(|(key, _)| keys::after(key)).unwrap_or_default();
        let equal_end = last.map_or_else(|| end.clone(), |cookie| keys::entries_from(directory, cookie + 1));
        rows.extend(t.scan(&rest_start, &equal_end, usize::MAX)?);
        complete = t.scan(&equal_end, &end, 1)?.is_empty();
    }
    let mut entries = Vec::with_capacity(rows.len());
    for (key, value) in rows {
        let mut reader = KeyReader::new(&key);
        let (Some(_), Some(cookie), Some(name)) = (reader.inode(), reader.number(), reader.name()) else {
            return Err(corrupt(&key, "malformed key").into());
        };
        let EntryRow { inode, kind } = decode(&key, &value)?;
        entries.push(DirectoryEntry {
            name,
            inode,
            kind,
            cookie,
            attributes: None,
        });
    }
    if with_attributes {
        t.read_inodes(entries.iter().map(|entry| entry.inode))?;
        for entry in &mut entries {
            entry.attributes = Some(t.named_inode(entry.inode)?.attributes);
        }
    }
    let parent = match row.place {
        Place::Named { parent } => parent,
        Place::Trash { .. } | Place::Orphan { .. } => directory,
    };
    Ok(Reply::Directory {
        entries,
        complete,
        parent: Some(parent),
    })
}

fn cookie_of(key: &[u8]) -> Option<u64> {
    let mut reader = KeyReader::new(key);
    reader.inode()?;
    reader.number()
}
