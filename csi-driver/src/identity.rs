//! Who this is: the identity service of both plugins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Request, Response, Status};
use twinshore_crds::names::CSI_DRIVER;
use twinshore_csi_proto::csi;
use twinshore_csi_proto::csi::identity_server::Identity as Service;
use twinshore_csi_proto::csi::plugin_capability::volume_expansion::Type as Expansion;
use twinshore_csi_proto::csi::plugin_capability::{Service as Offered, Type, VolumeExpansion};

/// Whether a plugin can work.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Now.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The identity service.
#[derive(Clone, Debug)]
pub struct Identity {
    readiness: Readiness,
}

impl Identity {
    /// Answers probes by `readiness`.
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness }
    }
}

#[tonic::async_trait]
impl Service for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: CSI_DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let types = [
            Type::Service(Offered {
                r#type: csi::plugin_capability::service::Type::ControllerService.into(),
            }),
            Type::VolumeExpansion(VolumeExpansion {
                r#type: Expansion::Online.into(),
            }),
        ];
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: types
                .into_iter()
                .map(|r#type| csi::PluginCapability { r#type: Some(r#type) })
                .collect(),
        }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse {
            ready: Some(self.readiness.get()),
        }))
    }
}
