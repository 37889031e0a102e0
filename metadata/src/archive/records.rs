//! A run of consecutive journal records as one object of the archive.

use bytes::Bytes;
use twinshore_protocol::{Position, VolumeId};

use super::catalogue::RunName;
use super::sealed::{Kind, Label, SealedError, seal, unseal};
use crate::journal::record::{Record, RecordHeader};
use crate::journal::{Digest, digest_of};

fn label(volume: VolumeId, run: &RunName, count: usize) -> Label {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Label {
        kind: Kind::Records,
        volume,
        first: run.first.0,
        second: run.last.0,
        count,
    }
}

/// Packs records, which must be consecutive, after verifying them: what is damaged is never archived.
pub(super) fn pack(volume: VolumeId, run: &RunName, records: &[Bytes]) -> Result<Bytes, SealedError> {
    let mut content = Vec::with_capacity(records.iter().map(Bytes::len).sum());
    let mut expected = run.first;
    let mut digest: Option<Digest> = None;
    for record in records {
        let header =
            RecordHeader::verified(record).map_err(|_| SealedError::Malformed("a record is damaged"))?;
        if header.position != expected
            || header.volume != volume
            || digest.is_some_and(|digest| digest != header.previous)
        {
            return Err(SealedError::Malformed("the records do not follow each other"));
        }
        digest = Some(digest_of(record));
        expected = expected.next();
        content.extend_from_slice(record);
    }
    if expected != Position(run.last.0.saturating_add(1)) || records.is_empty() {
        return Err(SealedError::Malformed("records are missing"));
    }
    seal(&label(volume, run, records.len()), &content)
}

/// Unpacks and verifies the records of a run, each with its digest.
pub(super) fn unpack(
    volume: VolumeId,
    run: &RunName,
    body: &[u8],
) -> Result<Vec<(Record, Digest)>, SealedError> {
    let content = unseal(&label(volume, run, 0), body)?;
    let mut rest = content.as_slice();
    let mut records: Vec<(Record, Digest)> = Vec::new();
    let mut expected = run.first;
    while !rest.is_empty() {
        let header = RecordHeader::peek(rest).map_err(|_| SealedError::Malformed("a record is damaged"))?;
        let (bytes, others) = rest
            .split_at_checked(header.length_bytes)
            .ok_or(SealedError::Malformed("a record is cut off"))?;
        let (record, digest) =
            Record::decode(bytes).map_err(|_| SealedError::Malformed("a record is damaged"))?;
        if record.position != expected
            || record.volume != volume
            || records
                .last()
                .is_some_and(|(_, before)| *before != record.previous)
        {
            return Err(SealedError::Malformed("the records do not follow each other"));
        }
        expected = expected.next();
        records.push((record, digest));
        rest = others;
    }
    if expected != Position(run.last.0.saturating_add(1)) || records.is_empty() {
        return Err(SealedError::Malformed("records are missing"));
    }
    Ok(records)
}
