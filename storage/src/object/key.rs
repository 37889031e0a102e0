//! The key of an object in a bucket.

use twinshore_protocol::ObjectId;

/// What the keys of all objects begin with.
pub const OBJECTS_PREFIX: &str = "objects/";

/// The key under which both buckets hold the object: `objects/<2 hex digits>/<id>`.
///
/// The digits are the low byte of the CRC-32C of the id's text. They spread consecutive ids over 256 prefixes, because
/// stores partition by prefix, and let a full synchronisation list them in parallel.
pub fn object_key(id: ObjectId) -> String {
    let name = id.to_string();
    format!(
        "{OBJECTS_PREFIX}{:02x}/{name}",
        crc32c::crc32c(name.as_bytes()) & 0xff
    )
}

/// The object that a key names, or `None` if it is not exactly the key of an object.
pub fn parse_object_key(key: &str) -> Option<ObjectId> {
    let (_, name) = key.strip_prefix(OBJECTS_PREFIX)?.split_once('/')?;
    let id = name.parse().ok()?;
    (object_key(id) == key).then_some(id)
}
