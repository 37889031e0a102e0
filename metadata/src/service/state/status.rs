//! The state of the volume at one moment, for people and metrics.

use twinshore_protocol::status::{ReplicationStatus, SessionStatus, SynchronisationStatus, VolumeStatus};
use twinshore_protocol::{Side, Timestamp};

use super::{Service, ServiceError};
use crate::core::{outbox, volume};
use crate::view::ViewStore;

/// Quarantined objects listed at most: a person looks at them, and a message is bounded.
const QUARANTINED_LISTED: usize = 1000;

/// Sessions listed at most.
const SESSIONS_LISTED: usize = 4096;

impl<V: ViewStore> Service<V> {
    /// The answer to `GetStatus`: of the committed state.
    pub fn status(&self) -> Result<VolumeStatus, ServiceError> {
        let sums = volume::totals(&self.store)?;
        let synchronisation = volume::synchronisation(&self.store)?;
        let mut replication = Vec::new();
        if self.format.settings.target.is_some() {
            for side in Side::BOTH {
                replication.push(self.replication_status(side)?);
            }
        }
        let sessions = self
            .sessions
            .iter()
            .take(SESSIONS_LISTED)
            .map(|(id, session)| SessionStatus {
                session: *id,
                role: session.role,
                description: session.description.clone(),
                connected: session.connection.is_some(),
                silent_seconds: self.now.monotonic.saturating_sub(session.heard).as_secs(),
                open_inodes: self.opens.count(*id) as u64,
            });
        Ok(VolumeStatus {
            format: self.format.clone(),
            epoch: self.tail.epoch,
            position: self.tail.position,
            usage: volume::usage(&self.store)?,
            trash: volume::trash(&self.store)?,
            objects: sums.objects.count,
            object_bytes: sums.objects.bytes,
            inline_bytes: sums.inline.bytes,
            replication,
            sessions: sessions.collect(),
            synchronisation: SynchronisationStatus {
                running: synchronisation.running,
                counts: synchronisation.counts,
                objects_total: sums.objects.count,
                finished: synchronisation.finished,
            },
            checkpoint: self.checkpoint,
            archived: self.archived,
            compaction: self.compaction.status(&sums),
        })
    }

    fn replication_status(&self, side: Side) -> Result<ReplicationStatus, ServiceError> {
        let totals = outbox::totals(&self.store, side)?;
        let mut quarantined = outbox::quarantined(&self.store, side, QUARANTINED_LISTED)?;
        let more = self
            .tasks
            .set_aside(side)
            .filter(|(object, _)| quarantined.iter().all(|(known, _)| known != object));
        let more: Vec<_> = more
            .take(QUARANTINED_LISTED.saturating_sub(quarantined.len()))
            .collect();
        quarantined.extend(more);
        Ok(ReplicationStatus {
            side,
            watermark: outbox::watermark(&self.store, side, self.tail.position)?,
            pending_objects: totals.objects,
            pending_bytes: totals.bytes,
            lag_seconds: totals
                .oldest
                .map_or(0, |oldest| lag_seconds(self.now.wall, oldest)),
            quarantined,
            pending_deletions: outbox::deletions_owed(&self.store, side)?,
            copied_objects: self.tasks.copied_objects[side as usize],
            copied_bytes: self.tasks.copied_bytes[side as usize],
        })
    }
}

/// Whole seconds, rounded up, and at least 1: a lag figure is never smaller than the true lag.
fn lag_seconds(now: Timestamp, oldest: Timestamp) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Not negative, and far below 2^52.
    let seconds = now.seconds_since(oldest).ceil() as u64;
    seconds.max(1)
}
