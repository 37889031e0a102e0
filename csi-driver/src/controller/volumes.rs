//! Volumes of Kubernetes: claims on directories.

use std::time::Duration;

use twinshore_csi_proto::csi;
use twinshore_csi_proto::csi::volume_content_source::Type as Source;
use twinshore_protocol::claims::{Claim, ClaimKey, ClaimRequest, CopySource, KeyError, Label, SnapshotKey};

use super::Controller;
use super::identifiers::{Identifier, name_for};
use super::parameters;
use crate::attributes::Attributes;
use crate::capability;
use crate::error::CallError;
use crate::volume_key::VolumeKey;

/// How long a call waits for a copy; the sidecar asks again for one that takes longer.
const COPY_PATIENCE: Duration = Duration::from_secs(25);

/// How often it looks meanwhile.
const COPY_INTERVAL: Duration = Duration::from_millis(250);

/// Entries in a page if it is not said.
const PAGE_DEFAULT: u32 = 500;

pub(super) fn bad_key(error: KeyError) -> CallError {
    CallError::Invalid(error.to_string())
}

/// A size that fits what is asked for; 0 for any.
fn capacity(range: Option<&csi::CapacityRange>) -> Result<u64, CallError> {
    let Some(range) = range else { return Ok(0) };
    let bytes =
        |value: i64| u64::try_from(value).map_err(|_| CallError::Invalid("a size is negative".to_owned()));
    let (required, limit) = (bytes(range.required_bytes)?, bytes(range.limit_bytes)?);
    if limit > 0 && required > limit {
        return Err(CallError::OutOfRange(format!(
            "{required} bytes are required, but {limit} are the limit"
        )));
    }
    Ok(if required > 0 { required } else { limit })
}

/// As the specification has it.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn describe(key: &VolumeKey, volume_id: &str, claim: &Claim) -> csi::Volume {
    let content_source = claim.source.as_ref().map(|source| {
        let identifier = |name: &str| {
            Identifier {
                volume: volume_id.to_owned(),
                name: name.to_owned(),
            }
            .to_string()
        };
        csi::VolumeContentSource {
            r#type: Some(match source {
                CopySource::Claim(source) => Source::Volume(csi::volume_content_source::VolumeSource {
                    volume_id: identifier(source.name()),
                }),
                CopySource::Snapshot(source) => {
                    Source::Snapshot(csi::volume_content_source::SnapshotSource {
                        snapshot_id: identifier(source.name()),
                    })
                }
            }),
        }
    });
    csi::Volume {
        capacity_bytes: signed(claim.capacity_bytes),
        volume_id: Identifier {
            volume: volume_id.to_owned(),
            name: claim.key.name().to_owned(),
        }
        .to_string(),
        volume_context: Attributes::of_claim(key, &claim.path, claim.key.name()).to_context(),
        content_source,
        accessible_topology: Vec::new(),
    }
}

impl Controller {
    /// What a new volume begins with.
    fn copy_source(
        &self,
        source: &csi::VolumeContentSource,
        volume_id: &str,
    ) -> Result<CopySource, CallError> {
        let (what, text) = match &source.r#type {
            Some(Source::Volume(source)) => ("volume", &source.volume_id),
            Some(Source::Snapshot(source)) => ("snapshot", &source.snapshot_id),
            None => return Err(CallError::Invalid("the kind of the source is missing".to_owned())),
        };
        if text.is_empty() {
            return Err(CallError::Invalid(format!("the {what} to copy is missing")));
        }
        let identifier = Identifier::parse(text)
            .ok_or_else(|| CallError::NotFound(format!("there is no {what} {text}")))?;
        if identifier.volume != volume_id {
            return Err(CallError::Invalid(format!(
                "{what} {text} is of another ReplicatedVolume: a copy is possible within one only"
            )));
        }
        Ok(match &source.r#type {
            Some(Source::Snapshot(_)) => CopySource::Snapshot(
                SnapshotKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?,
            ),
            _ => CopySource::Claim(ClaimKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?),
        })
    }

    pub(super) async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, CallError> {
        if request.name.is_empty() {
            return Err(CallError::Invalid("the name is missing".to_owned()));
        }
        if request.volume_capabilities.is_empty() {
            return Err(CallError::Invalid(
                "the volume capabilities are missing".to_owned(),
            ));
        }
        for wanted in &request.volume_capabilities {
            capability::parse(Some(wanted))?;
        }
        let capacity_bytes = capacity(request.capacity_range.as_ref())?;
        let name = name_for(&request.name);
        let parameters = parameters::parse(&request.parameters, &name, &self.region)?;
        let _held = self.locks.take(&format!("{}.{name}", parameters.volume))?;
        let key = &parameters.volume;
        let service = self.services.of(key).await?;
        let source = request
            .volume_content_source
            .as_ref()
            .map(|source| self.copy_source(source, &service.volume_id))
            .transpose()?;
        let wanted = ClaimRequest {
            key: ClaimKey::new(self.region.as_str(), name).map_err(bad_key)?,
            display: parameters.display,
            path: parameters.directory,
            capacity_bytes,
            source,
            new: parameters.new,
        };
        let what = format!("claim directory {}", wanted.path);
        let failed = |error| self.services.failed(key, &what, error);
        let claimed = wanted.key.clone();
        let mut claim = service.session.claim_directory(wanted).await.map_err(failed)?;
        let copied = tokio::time::timeout(COPY_PATIENCE, async {
            while !claim.ready {
                tokio::time::sleep(COPY_INTERVAL).await;
                claim = service.session.get_claim(claimed.clone()).await.map_err(failed)?;
            }
            Ok(())
        });
        match copied.await {
            Ok(result) => result?,
            Err(_) => return Err(CallError::Pending(format!("the copy to {}", claim.path))),
        }
        tracing::info!(volume = %key, claim = %claim.key, directory = %claim.path, "claimed");
        Ok(describe(key, &service.volume_id, &claim))
    }

    pub(super) async fn delete(&self, volume_id: &str) -> Result<(), CallError> {
        if volume_id.is_empty() {
            return Err(CallError::Invalid("the volume id is missing".to_owned()));
        }
        let Some(identifier) = Identifier::parse(volume_id) else {
            return Ok(());
        };
        let _held = self.locks.take(volume_id)?;
        let (key, service) = self.volume_of(&identifier).await?;
        let claim = ClaimKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?;
        let released = service.session.release_claim(claim.clone()).await;
        released.map_err(|error| {
            self.services
                .failed(&key, &format!("release claim {claim}"), error)
        })?;
        tracing::info!(volume = %key, %claim, "released");
        Ok(())
    }

    /// The claim that a call is about.
    pub(super) async fn claim_of(&self, volume_id: &str) -> Result<(VolumeKey, String, Claim), CallError> {
        if volume_id.is_empty() {
            return Err(CallError::Invalid("the volume id is missing".to_owned()));
        }
        let identifier = Identifier::parse(volume_id)
            .ok_or_else(|| CallError::NotFound(format!("there is no volume {volume_id}")))?;
        let (key, service) = self.volume_of(&identifier).await?;
        let claim = ClaimKey::new(self.region.as_str(), identifier.name).map_err(bad_key)?;
        let what = format!("look at claim {claim}");
        let found = service.session.get_claim(claim).await;
        let found = found.map_err(|error| self.services.failed(&key, &what, error))?;
        Ok((key, service.volume_id, found))
    }

    pub(super) async fn get(&self, volume_id: &str) -> Result<csi::Volume, CallError> {
        let (key, identity, claim) = self.claim_of(volume_id).await?;
        Ok(describe(&key, &identity, &claim))
    }

    pub(super) async fn expand(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, CallError> {
        let range = request
            .capacity_range
            .as_ref()
            .ok_or_else(|| CallError::Invalid("the capacity range is missing".to_owned()))?;
        let wanted_bytes = capacity(Some(range))?;
        let (key, _, claim) = self.claim_of(&request.volume_id).await?;
        let _held = self.locks.take(&request.volume_id)?;
        let service = self.services.of(&key).await?;
        let what = format!("resize claim {}", claim.key);
        let resized = service.session.resize_claim(claim.key, wanted_bytes).await;
        let resized = resized.map_err(|error| self.services.failed(&key, &what, error))?;
        tracing::info!(volume = %key, claim = %resized.key, bytes = resized.capacity_bytes, "resized");
        Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: signed(resized.capacity_bytes),
            node_expansion_required: false,
        })
    }

    pub(super) async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, CallError> {
        if request.volume_capabilities.is_empty() {
            return Err(CallError::Invalid(
                "the volume capabilities are missing".to_owned(),
            ));
        }
        self.claim_of(&request.volume_id).await?;
        let refused = request
            .volume_capabilities
            .iter()
            .find_map(|wanted| capability::parse(Some(wanted)).err());
        Ok(match refused {
            Some(error) => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: error.to_string(),
            },
            None => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }

    /// Claims of all volumes, volume by volume. A token is the identifier of the first entry of the next page.
    pub(super) async fn list(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Result<csi::ListVolumesResponse, CallError> {
        let mut left = page_size(request.max_entries)?;
        let begin = token(&request.starting_token)?;
        let region = Label::new(self.region.as_str()).map_err(bad_key)?;
        let mut response = csi::ListVolumesResponse::default();
        for (identity, key) in self.registry.all().await? {
            let mut from = match &begin {
                Some(begin) if identity < begin.volume => continue,
                Some(begin) if identity == begin.volume => {
                    Some(ClaimKey::new(self.region.as_str(), begin.name.as_str()).map_err(bad_key)?)
                }
                _ => None,
            };
            let service = self.services.of(&key).await?;
            loop {
                // One more than are wanted: it is where the next page begins.
                let page = service
                    .session
                    .list_claims(Some(region.clone()), from, left + 1)
                    .await
                    .map_err(|error| self.services.failed(&key, "list claims", error))?;
                for claim in page.claims {
                    let volume = describe(&key, &service.volume_id, &claim);
                    if left == 0 {
                        response.next_token = volume.volume_id;
                        return Ok(response);
                    }
                    left -= 1;
                    response.entries.push(csi::list_volumes_response::Entry {
                        volume: Some(volume),
                        status: None,
                    });
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(response)
    }
}

/// How many entries are wanted.
pub(super) fn page_size(max_entries: i32) -> Result<u32, CallError> {
    match u32::try_from(max_entries) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(count) => Ok(count.min(PAGE_DEFAULT)),
        Err(_) => Err(CallError::Invalid("the number of entries is negative".to_owned())),
    }
}

/// Where a page begins.
pub(super) fn token(text: &str) -> Result<Option<Identifier>, CallError> {
    if text.is_empty() {
        return Ok(None);
    }
    Identifier::parse(text)
        .map(Some)
        .ok_or_else(|| CallError::Token(format!("{text} is no place where a page begins")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_size_fits_what_is_asked_for() {
        let range = |required_bytes, limit_bytes| {
            capacity(Some(&csi::CapacityRange {
                required_bytes,
                limit_bytes,
            }))
        };
        assert_eq!(capacity(None).unwrap(), 0);
        assert_eq!(range(5, 0).unwrap(), 5);
        assert_eq!(range(5, 9).unwrap(), 5);
        assert_eq!(range(0, 9).unwrap(), 9);
        assert!(matches!(range(9, 5), Err(CallError::OutOfRange(_))));
        assert!(matches!(range(-1, 5), Err(CallError::Invalid(_))));
    }

    #[test]
    fn a_page_begins_where_a_page_ended_or_nowhere() {
        assert!(token("").unwrap().is_none());
        assert!(matches!(token("invalid-token"), Err(CallError::Token(_))));
        assert!(page_size(-1).is_err());
        assert_eq!((page_size(0).unwrap(), page_size(3).unwrap()), (PAGE_DEFAULT, 3));
    }
}
