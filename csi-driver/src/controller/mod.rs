//! The controller plugin: claims, their copies and snapshots. Every call is a question to the metadata service of a volume; nothing is remembered here, so it
//! can be repeated by another process.
//!
//! | file | what it is |
//! |---|---|
//! | `calls` | the controller service: one function for each call |
//! | `volumes`, `snapshots` | what the calls do |
//! | `parameters` | what a StorageClass says |
//! | `identifiers` | `volume_id` and `snapshot_id` |
//! | `registry` | which `ReplicatedVolume` an identifier belongs to |

mod calls;
mod identifiers;
mod parameters;
mod registry;
mod snapshots;
mod volumes;

use std::sync::Arc;

use kube::Client;
use tonic::transport::Server;
use twinshore_csi_proto::csi::controller_server::ControllerServer;
use twinshore_csi_proto::csi::identity_server::IdentityServer;

use self::identifiers::Identifier;
use self::registry::Registry;
use crate::arguments::ControllerArguments;
use crate::error::CallError;
use crate::http;
use crate::identity::{Identity, Readiness};
use crate::locks::Locks;
use crate::run::{RunError, asked_to_stop};
use crate::service::{Part, Service, Services};
use crate::volume_key::VolumeKey;

/// The controller service.
pub struct Controller {
    region: String,
    services: Services,
    registry: Registry,
    locks: Locks,
}

impl Controller {
    /// The volume that an identifier belongs to, and its service.
    async fn volume_of(&self, identifier: &Identifier) -> Result<(VolumeKey, Service), CallError> {
        let key = self.registry.find(&identifier.volume).await?.ok_or_else(|| {
            // Not "not found": a volume whose status was not written yet would lose its claims.
            CallError::not_yet(format!(
                "no ReplicatedVolume of this cluster has the identity {}: see whether it is there and ready",
                identifier.volume
            ))
        })?;
        let service = self.services.of(&key).await?;
        Ok((key, service))
    }
}

/// Serves until it is asked to stop.
pub async fn run(arguments: ControllerArguments) -> Result<(), RunError> {
    let ControllerArguments {
        region,
        endpoint,
        http,
        instance,
    } = arguments;
    let client = Client::try_default().await.map_err(RunError::Client)?;
    let readiness = Readiness::default();
    let listener = endpoint.bind().map_err(RunError::io("listen for the sidecars"))?;
    readiness.set(true);
    let controller = Arc::new(Controller {
        region,
        services: Services::new(client.clone(), Part::Controller, instance),
        registry: Registry::new(client),
        locks: Locks::default(),
    });
    let server = Server::builder()
        .add_service(IdentityServer::new(Identity::new(readiness.clone())))
        .add_service(ControllerServer::from_arc(controller))
        .serve_with_incoming_shutdown(listener, async {
            if let Err(error) = asked_to_stop().await {
                tracing::error!("{}", crate::error::with_causes(&error));
            }
        });
    tokio::select! {
        result = server => result.map_err(RunError::Serve),
        result = http::serve(http, readiness) => result.map_err(RunError::io("serve health")),
    }
}
