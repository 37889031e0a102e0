//! The life of the node plugin's process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;
use tonic::transport::Server;
use twinshore_csi_proto::csi::identity_server::IdentityServer;
use twinshore_csi_proto::csi::node_server::NodeServer;
use twinshore_csi_proto::registration::registration_server::RegistrationServer;

use super::access::Access;
use super::authority;
use super::calls::Node;
use super::mounting;
use super::paths::Paths;
use super::registration::Registration;
use super::volumes::Volumes;
use crate::endpoint;
use crate::http;
use crate::identity::{Identity, Readiness};
use crate::locks::Locks;
use crate::mounter::link::Link;
use crate::run::{RunError, asked_to_stop};
use crate::service::{Part, Services};

/// What the node plugin is told.
pub struct NodeSettings {
    /// The node's name in its cluster.
    pub node: String,
    /// The kubelet's directory.
    pub kubelet: PathBuf,
    /// The user that the mounter runs as.
    pub mounter_user: u32,
    /// Where health is served.
    pub http: SocketAddr,
}

/// Serves until it is asked to stop. Mounts go on after that.
pub async fn run(settings: NodeSettings) -> Result<(), RunError> {
    let NodeSettings {
        node,
        kubelet,
        mounter_user,
        http,
    } = settings;
    let client = Client::try_default().await.map_err(RunError::Client)?;
    let paths = Paths::new(&kubelet);
    let services = Arc::new(Services::new(client.clone(), Part::Node, node.clone()));
    let link = Link::default();
    let volumes = Volumes::new(
        paths.clone(),
        link.clone(),
        client,
        Arc::clone(&services),
        node.clone(),
    )
    .map_err(RunError::io("read the table of mounts"))?;
    let volumes = Arc::new(volumes);
    let (staging, targets) = (Locks::default(), Locks::default());
    let access = Access::new(services, paths.clone(), node, targets.clone(), staging.clone());
    let mounter = paths.mounter();
    if let Some(directory) = mounter.parent() {
        // The mounter, which is not root, looks for the socket in it.
        mounting::make_directory(directory, 0o755).map_err(RunError::io("make the mounter's directory"))?;
    }
    let socket = paths.socket();
    let listener = endpoint::bind(&socket, 0o600).map_err(RunError::io("listen for the kubelet"))?;
    let registration_socket = paths.registration();
    let registration_listener =
        endpoint::bind(&registration_socket, 0o600).map_err(RunError::io("register with the kubelet"))?;
    let readiness = Readiness::default();
    // Probes of the identity service ask whether calls are answered, which they are from now on.
    let answers = Readiness::default();
    answers.set(true);
    let (refused, mut refusals) = mpsc::channel(1);
    let driver = Server::builder()
        .add_service(IdentityServer::new(Identity::new(answers)))
        .add_service(NodeServer::new(Node {
            paths,
            volumes: Arc::clone(&volumes),
            access: access.clone(),
            staging,
            targets,
        }))
        .serve_with_incoming(listener);
    let registration = Server::builder()
        .add_service(RegistrationServer::new(Registration {
            endpoint: socket.display().to_string(),
            readiness: readiness.clone(),
            refused,
        }))
        .serve_with_incoming(authority::connections(registration_listener.into_inner()));
    let result = tokio::select! {
        result = driver => result.map_err(RunError::Serve),
        result = registration => result.map_err(RunError::Serve),
        result = link.run(&mounter, mounter_user) => result.map_err(RunError::io("listen for the mounter")),
        result = http::serve(http, readiness) => result.map_err(RunError::io("serve health")),
        () = access.run() => Ok(()),
        () = volumes.follow_mounter() => Ok(()),
        Some(reason) = refusals.recv() => Err(RunError::Refused(reason)),
        result = asked_to_stop() => result,
    };
    // Before the driver's socket goes: the kubelet forgets this plugin.
    for path in [&registration_socket, &socket] {
        if let Err(error) = endpoint::clear(path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
    result
}
