//! The objects that metadata names, for the full synchronisation.

use twinshore_protocol::reply::ObjectRecord;
use twinshore_protocol::{ObjectId, Reply};

use crate::core::keys::{self, KeyReader};
use crate::core::transaction::{Attempt, Transaction, corrupt, decode};
use crate::core::values::ObjectRow;

/// The longest page: about 60 bytes for an object.
const PAGE_MAX: usize = 10_000;

pub fn list(t: &mut Transaction<'_>, after: Option<ObjectId>, limit: u32) -> Attempt<Reply> {
    let start = after.map_or(bytes::Bytes::from_static(&[keys::OBJECT]), |after| {
        keys::after(&keys::object(after))
    });
    let limit = usize::try_from(limit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let mut records = Vec::new();
    for (key, value) in t.scan(&start, &[keys::OBJECT + 1], limit)? {
        let object = KeyReader::new(&key)
            .object()
            .ok_or_else(|| corrupt(&key, "malformed key"))?;
        let row: ObjectRow = decode(&key, &value)?;
        records.push(ObjectRecord {
            object,
            stored_bytes: row.stored_bytes,
            checksum: row.checksum,
            present: row.present,
            live_bytes: row.live_bytes,
            content_bytes: row.content_bytes,
        });
    }
    Ok(Reply::Objects(records))
}
