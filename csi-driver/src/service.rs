//! The metadata services of volumes: one session for each, opened when it is first needed, with what the volume's Secret in this cluster says.
//!
//! A session that no longer answers is dropped, so that the next call reads the Secret anew: certificates are renewed, endpoints move.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::time::timeout;
use twinshore_crds::client_secret::PartSecret;
use twinshore_crds::names::{CSI_PURPOSES, VolumeNames};
use twinshore_protocol::claims::Refused;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::session::{
    ClaimError, GrpcTransport, RequestError, Session, SessionOptions, WithoutCaches,
};
use twinshore_protocol::tls::{TlsMaterial, TlsSource};
use twinshore_protocol::{Side, VolumeId};

use crate::error::{CallError, with_causes};
use crate::volume_key::VolumeKey;

/// How long a service may take to answer: less than the sidecars' patience (60 s), so that they hear why.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long opening a session may take, handshakes around the world included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Whose Secret is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `<volume>-client`.
    Node,
    /// `<volume>-controller`.
    Controller,
}

/// A volume's service, and what is known of the volume.
#[derive(Clone)]
pub struct Service {
    /// The session.
    pub session: Session,
    /// The volume's identity.
    pub volume_id: String,
    /// The region of this cluster.
    pub region: String,
}

/// The services of all volumes.
pub struct Services {
    client: Client,
    part: Part,
    /// This process, for people.
    host: String,
    open: Mutex<HashMap<VolumeKey, Arc<tokio::sync::Mutex<Option<Service>>>>>,
}

impl Services {
    /// Opens nothing yet.
    pub fn new(client: Client, part: Part, host: String) -> Self {
        Self {
            client,
            part,
            host,
            open: Mutex::default(),
        }
    }

    /// The Secret of a volume, as text.
    pub async fn secret(&self, key: &VolumeKey) -> Result<BTreeMap<String, ByteString>, CallError> {
        let names = VolumeNames::new(key.name());
        let name = match self.part {
            Part::Node => names.client(),
            Part::Controller => names.controller(),
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), key.namespace());
        match secrets.get_opt(&name).await {
            Ok(Some(secret)) => Ok(secret.data.unwrap_or_default()),
            Ok(None) => Err(CallError::not_yet(format!(
                "there is no Secret {name} in namespace {}: see whether the ReplicatedVolume {key} is there and ready",
                key.namespace()
            ))),
            // Before the operator has made the Role for it, the Secret may not be read.
            Err(error) => Err(CallError::unavailable(
                format!(
                    "cannot read the Secret {name} in namespace {}: see whether the ReplicatedVolume {key} is there and ready",
                    key.namespace()
                ),
                error,
            )),
        }
    }

    /// The service of a volume.
    pub async fn of(&self, key: &VolumeKey) -> Result<Service, CallError> {
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(key.clone()).or_default())
        };
        // Others who need the same wait here for the one that opens it.
        let mut slot = slot.lock().await;
        if let Some(service) = &*slot {
            return Ok(service.clone());
        }
        let secret = parse(key, &self.secret(key).await?)?;
        let service = self.connect(key, &secret).await?;
        *slot = Some(service.clone());
        Ok(service)
    }

    /// Opens another session when one is needed next.
    pub fn forget(&self, key: &VolumeKey) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    async fn connect(&self, key: &VolumeKey, secret: &PartSecret) -> Result<Service, CallError> {
        let config = &secret.config;
        let what = || {
            format!(
                "the metadata service of {key} at {} cannot be reached",
                config.endpoint
            )
        };
        let material = TlsMaterial {
            certificate: secret.certificate.clone().into_bytes(),
            key: secret.private_key.clone().into_bytes(),
            authority: secret.authority.clone().into_bytes(),
        };
        let transport = GrpcTransport::new(&config.endpoint, Some(TlsSource::Material(material)))
            .map_err(|error| CallError::unavailable(what(), error))?;
        let volume: VolumeId = config.volume_id.parse().map_err(|_| {
            CallError::Precondition(format!(
                "the Secret of {key} names no volume: {}",
                config.volume_id
            ))
        })?;
        let options = SessionOptions {
            volume: Some(volume),
            role: Role::Client,
            near: if config.flip { Side::Target } else { Side::Primary },
            task_slots: 0,
            description: SessionDescription {
                host: self.host.clone(),
                process: std::process::id(),
                purpose: match self.part {
                    Part::Node => CSI_PURPOSES[0],
                    Part::Controller => CSI_PURPOSES[1],
                }
                .to_owned(),
                // Only mounts count as the node.
                node: None,
            },
            request_deadline: REQUEST_DEADLINE,
        };
        let connecting = Session::connect(Arc::new(transport), options, Arc::new(WithoutCaches));
        match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(session)) => Ok(Service {
                session,
                volume_id: config.volume_id.clone(),
                region: config.region.clone(),
            }),
            Ok(Err(error)) => Err(CallError::unavailable(what(), error)),
            Err(_) => Err(CallError::not_yet(format!(
                "{} within {} s",
                what(),
                CONNECT_DEADLINE.as_secs()
            ))),
        }
    }

    /// What a call is told of a failed question about a volume. A session that does not answer is dropped.
    pub fn failed(&self, key: &VolumeKey, what: &str, error: ClaimError) -> CallError {
        match error {
            ClaimError::Refused(refused) => refusal(&refused),
            ClaimError::Failed(RequestError::Failed(errno)) => CallError::from_errno(what, errno),
            ClaimError::Failed(
                error @ (RequestError::SessionLost | RequestError::TimedOut | RequestError::Refused(_)),
            ) => {
                tracing::warn!(%key, "{}", with_causes(&error));
                self.forget(key);
                CallError::unavailable(format!("cannot {what}"), error)
            }
            ClaimError::Unexpected => CallError::Precondition(error.to_string()),
        }
    }
}

/// Reads a Secret.
pub fn parse(key: &VolumeKey, data: &BTreeMap<String, ByteString>) -> Result<PartSecret, CallError> {
    PartSecret::from_data(data).map_err(|error| {
        CallError::unavailable(
            format!("the Secret of the ReplicatedVolume {key} cannot be used"),
            error,
        )
    })
}

/// A refusal of the metadata service, as a call is told.
pub fn refusal(refused: &Refused) -> CallError {
    let text = refused.to_string();
    match refused {
        Refused::UnknownClaim(_) | Refused::UnknownSnapshot(_) | Refused::NoDirectory(_) => {
            CallError::NotFound(text)
        }
        Refused::Differs { .. }
        | Refused::OtherSize { .. }
        | Refused::NotADirectory(_)
        | Refused::Occupied(_)
        | Refused::OtherHold { .. } => CallError::Conflict(text),
        Refused::Nested { .. }
        | Refused::TooManyInodes { .. }
        | Refused::CopyFailed { .. }
        | Refused::InUse { .. }
        | Refused::Held { .. } => CallError::Precondition(text),
        Refused::SourceTooLarge { .. } => CallError::OutOfRange(text),
        Refused::BeingCopied(what) => CallError::Pending(what.clone()),
        Refused::TooMany { .. } => CallError::Exhausted(text),
        // Its session is being opened again: the next call finds it.
        Refused::NoMount(_) => CallError::not_yet(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tonic::Code;
    use twinshore_protocol::claims::{
        AccessHold, AccessMode, AccessTo, ClaimKey, Label, NodeName, SnapshotKey,
    };

    use super::*;

    #[test]
    #[allow(clippy::too_many_lines)] // One list of all refusals.
    fn every_refusal_has_a_code() {
        let path = || "/a/b".parse().unwrap();
        let text = String::new;
        let to = || AccessTo::Path(path());
        let holder = || {
            Box::new(AccessHold {
                node: NodeName::new("east", "east-1").unwrap(),
                target: Label::new("/target").unwrap(),
                mode: AccessMode::SinglePod,
                since: twinshore_protocol::Timestamp::since_epoch(Duration::ZERO),
                to: to(),
                counts: true,
            })
        };
        let table = [
            (
                Refused::UnknownClaim(ClaimKey::new("east", "c").unwrap()),
                Code::NotFound,
            ),
            (
                Refused::UnknownSnapshot(SnapshotKey::new("east", "s").unwrap()),
                Code::NotFound,
            ),
            (Refused::NoDirectory(path()), Code::NotFound),
            (
                Refused::Differs {
                    key: text(),
                    what: text(),
                    stands: text(),
                    asked: text(),
                },
                Code::AlreadyExists,
            ),
            (
                Refused::OtherSize {
                    path: path(),
                    stands_bytes: 1,
                    asked_bytes: 2,
                },
                Code::AlreadyExists,
            ),
            (Refused::NotADirectory(path()), Code::AlreadyExists),
            (Refused::Occupied(path()), Code::AlreadyExists),
            (
                Refused::OtherHold {
                    to: to(),
                    mode: AccessMode::ReadOnly,
                },
                Code::AlreadyExists,
            ),
            (
                Refused::Nested {
                    path: path(),
                    other: text(),
                },
                Code::FailedPrecondition,
            ),
            (
                Refused::TooManyInodes { inodes: 2, limit: 1 },
                Code::FailedPrecondition,
            ),
            (
                Refused::CopyFailed {
                    what: text(),
                    reason: text(),
                },
                Code::FailedPrecondition,
            ),
            (
                Refused::InUse {
                    path: text(),
                    holder: holder(),
                },
                Code::FailedPrecondition,
            ),
            (
                Refused::Held {
                    asked: AccessMode::SinglePod,
                    holder: holder(),
                },
                Code::FailedPrecondition,
            ),
            (
                Refused::SourceTooLarge {
                    asked_bytes: 1,
                    needed_bytes: 2,
                },
                Code::OutOfRange,
            ),
            (Refused::BeingCopied(text()), Code::Aborted),
            (
                Refused::TooMany {
                    what: text(),
                    limit: 1,
                },
                Code::ResourceExhausted,
            ),
            (
                Refused::NoMount(NodeName::new("east", "east-1").unwrap()),
                Code::Unavailable,
            ),
        ];
        for (refused, code) in table {
            assert_eq!(refusal(&refused).code(), code, "{refused:?}");
        }
    }
}
