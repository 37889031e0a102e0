//! Registration with the kubelet, which watches a directory for sockets of plugins and asks each what it is.
//!
//! # Flow
//!
//! 1. The driver's own socket listens before this one appears, as the kubelet calls it at once.
//! 2. The kubelet finds the registration socket, asks `GetInfo`, calls the driver (`NodeGetInfo`), and notifies of the result.
//! 3. A kubelet that restarts finds the socket again. A plugin that ends removes it, so that the kubelet forgets it.
//!
//! A refusal ends the plugin: the kubelet asks only those that are new.

use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use twinshore_crds::names::CSI_DRIVER;
use twinshore_csi_proto::registration::registration_server::Registration as Service;
use twinshore_csi_proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

use crate::identity::Readiness;

/// Answers the kubelet.
pub struct Registration {
    /// The driver's socket, as the kubelet sees it.
    pub endpoint: String,
    /// Told when the kubelet works with this plugin.
    pub readiness: Readiness,
    /// Told why the kubelet does not.
    pub refused: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl Service for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: CSI_DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.readiness.set(plugin_registered);
        if plugin_registered {
            tracing::info!("the kubelet works with this plugin");
        } else {
            // Whoever listens is told once; it ends the process.
            let _ = self.refused.try_send(error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
