//! Looking closely at a suspect: at this moment, in the buckets and in metadata.

use tokio::sync::Semaphore;
use twinshore_protocol::reply::ObjectRecord;
use twinshore_protocol::{ObjectId, Side, Sides};
use twinshore_storage::bucket::BucketError;
use twinshore_storage::object::object_key;

use super::judge::{Rules, Suspect};
use super::{Findings, MEMORY_UNIT_BYTES, SynchronisationError, Synchroniser, records};
use crate::copy::{Body, Expected, read_verified};

/// What a copy turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyState {
    Good,
    Missing,
    Damaged,
}

/// Turns what was seen into findings. Pure.
fn weigh(found: &mut Findings, fresh: ObjectRecord, configured: Sides, copies: &[(Side, CopyState)]) {
    let mut somewhere = Sides::NONE;
    for side in configured.iter() {
        let seen = copies
            .iter()
            .find(|(seen, _)| *seen == side)
            .map(|(_, state)| *state);
        let known = fresh.present.contains(side);
        match (seen, known) {
            (None | Some(CopyState::Good), true) => somewhere = somewhere.with(side),
            (Some(CopyState::Good), false) => {
                somewhere = somewhere.with(side);
                found.present.push((fresh.object, side));
            }
            (Some(CopyState::Missing), true) => {
                found.absent.push((fresh.object, side));
                found.counts.missing += 1;
            }
            (Some(CopyState::Damaged), true) => {
                found.absent.push((fresh.object, side));
                found.counts.damaged += 1;
            }
            // Not there and not expected: owed already.
            (Some(CopyState::Missing | CopyState::Damaged) | None, false) => {}
        }
    }
    if somewhere.is_empty() {
        tracing::error!(object = %fresh.object, "an object that files name is intact in neither bucket: its data is lost");
        found.counts.lost += 1;
    }
}

impl Synchroniser {
    /// Turns a suspect into findings, or into none.
    pub(super) async fn look_closely(
        &self,
        suspect: Suspect,
        rules: Rules,
        memory: &Semaphore,
        memory_units: u32,
    ) -> Result<Findings, SynchronisationError> {
        let mut found = Findings::default();
        match suspect {
            Suspect::Unnamed { object, sides } => {
                if self.remove_orphan(object, sides).await? {
                    found.counts.orphans_removed = 1;
                }
            }
            Suspect::Named { record, read, ask } => {
                let mut copies = Vec::new();
                for side in rules
                    .configured
                    .iter()
                    .filter(|side| read.contains(*side) || ask.contains(*side))
                {
                    let units =
                        u32::try_from(record.stored_bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX);
                    let permit = memory.acquire_many(units.clamp(1, memory_units)).await;
                    // A copy that was not listed and is there after all is read too: then it is known for certain.
                    let state = self.inspect(record, side).await?;
                    drop(permit);
                    found.counts.checksums_verified += u64::from(state == CopyState::Good);
                    copies.push((side, state));
                }
                // Metadata may have moved on: only what is still named, and still said to be there, is a finding.
                let fresh = records::look_up(&self.session, record.object).await?;
                let Some(fresh) = fresh.filter(|fresh| fresh.live_bytes > 0) else {
                    return Ok(found);
                };
                weigh(&mut found, fresh, rules.configured, &copies);
            }
        }
        Ok(found)
    }

    async fn inspect(&self, record: ObjectRecord, side: Side) -> Result<CopyState, SynchronisationError> {
        let bucket = self.bucket(side)?;
        let expected = Expected {
            object: record.object,
            stored_bytes: record.stored_bytes,
            checksum: record.checksum,
        };
        let failed = |error| SynchronisationError::Bucket { side, error };
        // The size first: a body of any other size need not be read, and may be of any size.
        match bucket.size(&object_key(record.object)).await {
            Ok(size_bytes) if size_bytes == record.stored_bytes => {}
            Ok(_) => return Ok(CopyState::Damaged),
            Err(BucketError::NotFound { .. }) => return Ok(CopyState::Missing),
            Err(error) => return Err(failed(error)),
        }
        match read_verified(&*bucket, expected).await.map_err(failed)? {
            Body::Good(_) => Ok(CopyState::Good),
            Body::Missing => Ok(CopyState::Missing),
            Body::Damaged => Ok(CopyState::Damaged),
        }
    }

    /// Removes an object that metadata does not name, wherever it was listed. Tells whether there was anything to remove.
    async fn remove_orphan(&self, object: ObjectId, sides: Sides) -> Result<bool, SynchronisationError> {
        let key = object_key(object);
        let mut removed = false;
        for side in sides.iter() {
            let bucket = self.bucket(side)?;
            let failed = |error| SynchronisationError::Bucket { side, error };
            match bucket.size(&key).await {
                Ok(_) => {}
                // It was deleted since it was listed.
                Err(BucketError::NotFound { .. }) => continue,
                Err(error) => return Err(failed(error)),
            }
            if records::look_up(&self.session, object).await?.is_some() {
                return Ok(removed);
            }
            bucket.delete(std::slice::from_ref(&key)).await.map_err(failed)?;
            tracing::info!(%object, %side, "removed an object that no metadata names");
            removed = true;
        }
        Ok(removed)
    }
}
