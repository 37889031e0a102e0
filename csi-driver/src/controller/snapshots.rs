//! Snapshots of claims.

use prost_types::Timestamp;
use twinshore_csi_proto::csi;
use twinshore_protocol::claims::{ClaimKey, Label, Snapshot, SnapshotKey};

use super::Controller;
use super::identifiers::{Identifier, name_for};
use super::volumes::{bad_key, page_size, signed, token};
use crate::error::CallError;
use crate::volume_key::VolumeKey;

fn describe(identity: &str, snapshot: &Snapshot) -> csi::Snapshot {
    let identifier = |name: &str| {
        Identifier {
            volume: identity.to_owned(),
            name: name.to_owned(),
        }
        .to_string()
    };
    csi::Snapshot {
        size_bytes: signed(snapshot.size_bytes),
        snapshot_id: identifier(snapshot.key.name()),
        source_volume_id: identifier(snapshot.source.name()),
        creation_time: Some(Timestamp {
            seconds: snapshot.created.seconds,
            nanos: i32::try_from(snapshot.created.nanoseconds).unwrap_or(0),
        }),
        ready_to_use: snapshot.ready,
        group_snapshot_id: String::new(),
    }
}

impl Controller {
    pub(super) async fn create_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Result<csi::Snapshot, CallError> {
        if request.name.is_empty() {
            return Err(CallError::Invalid("the name is missing".to_owned()));
        }
        if request.source_volume_id.is_empty() {
            return Err(CallError::Invalid("the source volume id is missing".to_owned()));
        }
        if let Some(unknown) = request
            .parameters
            .keys()
            .find(|key| !key.starts_with("csi.storage.k8s.io/"))
        {
            return Err(CallError::Invalid(format!(
                "the parameter {unknown} does not exist: a VolumeSnapshotClass of this driver has none"
            )));
        }
        let source = Identifier::parse(&request.source_volume_id)
            .ok_or_else(|| CallError::NotFound(format!("there is no volume {}", request.source_volume_id)))?;
        let name = name_for(&request.name);
        let _held = self.locks.take(&format!("snapshot {name}"))?;
        let (key, service) = self.volume_of(&source).await?;
        let snapshot = SnapshotKey::new(self.region.as_str(), name).map_err(bad_key)?;
        let claim = ClaimKey::new(self.region.as_str(), source.name).map_err(bad_key)?;
        let what = format!("make snapshot {snapshot} of claim {claim}");
        let made = service.session.create_snapshot(snapshot, claim).await;
        let made = made.map_err(|error| self.services.failed(&key, &what, error))?;
        tracing::info!(volume = %key, snapshot = %made.key, ready = made.ready, "snapshot");
        Ok(describe(&service.volume_id, &made))
    }

    pub(super) async fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), CallError> {
        if snapshot_id.is_empty() {
            return Err(CallError::Invalid("the snapshot id is missing".to_owned()));
        }
        let Some(identifier) = Identifier::parse(snapshot_id) else {
            return Ok(());
        };
        let (key, service) = self.volume_of(&identifier).await?;
        let snapshot = SnapshotKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?;
        let what = format!("delete snapshot {snapshot}");
        let deleted = service.session.delete_snapshot(snapshot).await;
        deleted.map_err(|error| self.services.failed(&key, &what, error))
    }

    pub(super) async fn get_snapshot(&self, snapshot_id: &str) -> Result<csi::Snapshot, CallError> {
        if snapshot_id.is_empty() {
            return Err(CallError::Invalid("the snapshot id is missing".to_owned()));
        }
        let identifier = Identifier::parse(snapshot_id)
            .ok_or_else(|| CallError::NotFound(format!("there is no snapshot {snapshot_id}")))?;
        let (key, service) = self.volume_of(&identifier).await?;
        let snapshot = SnapshotKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?;
        let what = format!("look at snapshot {snapshot}");
        let found = service.session.get_snapshot(snapshot).await;
        let found = found.map_err(|error| self.services.failed(&key, &what, error))?;
        Ok(describe(&service.volume_id, &found))
    }

    /// Snapshots of all volumes, or of one, or one. What does not exist is an empty list.
    pub(super) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse, CallError> {
        let mut left = page_size(request.max_entries)?;
        let begin = token(&request.starting_token)?;
        let mut response = csi::ListSnapshotsResponse::default();
        let entry = |snapshot| csi::list_snapshots_response::Entry {
            snapshot: Some(snapshot),
        };
        if !request.snapshot_id.is_empty() {
            match self.get_snapshot(&request.snapshot_id).await {
                Ok(snapshot) => response.entries.push(entry(snapshot)),
                Err(CallError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            return Ok(response);
        }
        let source = if request.source_volume_id.is_empty() {
            None
        } else {
            match Identifier::parse(&request.source_volume_id) {
                Some(source) => Some(source),
                None => return Ok(response),
            }
        };
        let region = Label::new(self.region.as_str()).map_err(bad_key)?;
        for (identity, key) in self.volumes_of(source.as_ref()).await? {
            let mut from = match &begin {
                Some(begin) if identity < begin.volume => continue,
                Some(begin) if identity == begin.volume => {
                    Some(SnapshotKey::new(self.region.as_str(), begin.name.as_str()).map_err(bad_key)?)
                }
                _ => None,
            };
            let claim = source
                .as_ref()
                .map(|source| ClaimKey::new(self.region.as_str(), source.name.as_str()))
                .transpose()
                .map_err(bad_key)?;
            let service = self.services.of(&key).await?;
            loop {
                let page = service
                    .session
                    .list_snapshots(Some(region.clone()), claim.clone(), from, left + 1)
                    .await
                    .map_err(|error| self.services.failed(&key, "list snapshots", error))?;
                for snapshot in page.snapshots {
                    let snapshot = describe(&service.volume_id, &snapshot);
                    if left == 0 {
                        response.next_token = snapshot.snapshot_id;
                        return Ok(response);
                    }
                    left -= 1;
                    response.entries.push(entry(snapshot));
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(response)
    }

    async fn volumes_of(&self, source: Option<&Identifier>) -> Result<Vec<(String, VolumeKey)>, CallError> {
        let all = self.registry.all().await?;
        Ok(all
            .into_iter()
            .filter(|(identity, _)| source.is_none_or(|source| source.volume == *identity))
            .collect())
    }
}
