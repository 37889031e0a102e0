//! An operator within a namespace of its own, and short words for what tests do there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code)] // Each test program uses a part of it.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use twinshore_crds::ReplicatedVolume;
use twinshore_operator::context::Settings;
use twinshore_operator::controller::{self, Scope};
use twinshore_operator::metrics::Metrics;

use super::cluster::{Cluster, OPERATOR_TOKEN, eventually};

/// The manifest of a volume with two regions.
pub fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "twinshore.io/v1alpha1",
        "kind": "ReplicatedVolume",
        "metadata": {"name": name},
        "spec": {
            "primary": {
                "region": "east",
                "bucket": {"name": format!("{name}-east"), "endpoint": "http://s3.east:9000"},
                "credentialsSecretRef": {"name": "keys-east"},
            },
            "target": {
                "region": "west",
                "bucket": {"name": format!("{name}-west"), "endpoint": "http://s3.west:9000"},
                "credentialsSecretRef": {"name": "keys-west"},
            },
            "metadata": {"exposure": {"type": "Address", "address": "east.example.org"}},
        },
    })
}

/// A namespace.
pub struct Space {
    /// Its name.
    pub namespace: String,
    /// Somebody who may do everything.
    pub client: Client,
    /// The operator.
    pub operator: Client,
}

/// What tests ask of a kind.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

impl Space {
    /// Makes one.
    pub async fn new(cluster: &Cluster, name: &str) -> Self {
        Self {
            namespace: cluster.namespace(name).await,
            client: cluster.admin(),
            operator: cluster.client(OPERATOR_TOKEN),
        }
    }

    /// Objects of a kind.
    pub fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn volumes(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::erase::<ReplicatedVolume>(&()),
        )
    }

    /// Applies a volume, as a person does.
    pub async fn apply(&self, manifest: &Value) {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        self.volumes()
            .patch(
                name,
                &PatchParams::apply("person").force(),
                &Patch::Apply(manifest),
            )
            .await
            .unwrap();
    }

    /// A volume.
    pub async fn volume(&self, name: &str) -> ReplicatedVolume {
        self.volumes().get(name).await.unwrap().try_parse().unwrap()
    }

    /// Deletes a volume.
    pub async fn delete_volume(&self, name: &str) {
        self.volumes()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits until a volume is gone.
    pub async fn wait_volume_gone(&self, name: &str) {
        let gone = || async {
            self.volumes()
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        };
        eventually(&format!("the volume {name} to be gone"), gone).await;
    }

    /// Waits until a condition has a status.
    pub async fn condition(&self, name: &str, kind: &str, status: &str) -> Condition {
        let find = || async {
            let conditions = self.volume(name).await.status?.conditions;
            conditions
                .into_iter()
                .find(|condition| condition.type_ == kind && condition.status == status)
        };
        eventually(&format!("{kind} of {name} to be {status}"), find).await
    }

    /// Makes or changes a Secret with keys.
    pub async fn keys(&self, name: &str, access_key: &str, secret_key: &str) {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {"accessKey": access_key, "secretKey": secret_key},
        });
        self.api::<Secret>()
            .patch(
                name,
                &PatchParams::apply("person").force(),
                &Patch::Apply(&secret),
            )
            .await
            .unwrap();
    }

    /// Makes an object.
    pub async fn create<K: Kind>(&self, manifest: &Value) {
        let object: K = serde_json::from_value(manifest.clone()).unwrap();
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// Waits for an object.
    pub async fn wait<K: Kind>(&self, name: &str) -> K {
        let get = || async { self.api::<K>().get_opt(name).await.unwrap() };
        eventually(&format!("the {} {name}", K::kind(&())), get).await
    }

    /// Waits until an object is gone.
    pub async fn wait_gone<K: Kind>(&self, name: &str) {
        let gone = || async {
            let found = self.api::<K>().get_opt(name).await.unwrap();
            // Protection of claims waits for pods that no kubelet ends.
            found
                .is_none_or(|object| object.meta().deletion_timestamp.is_some())
                .then_some(())
        };
        eventually(&format!("the {} {name} to be gone", K::kind(&())), gone).await;
    }

    /// All objects of a kind.
    pub async fn all<K: Kind>(&self) -> Vec<K> {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Changes an object behind the operator's back.
    pub async fn merge<K: Kind>(&self, name: &str, patch: &Value) {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// Plays the part of whoever writes the status of an object.
    pub async fn merge_status<K: Kind>(&self, name: &str, patch: &Value) {
        self.wait::<K>(name).await;
        self.api::<K>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
}

/// A running operator.
pub struct Operator {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// What it counted.
    pub metrics: Arc<Metrics>,
}

impl Operator {
    /// Starts one in a region, for the volumes of a namespace.
    pub fn start(space: &Space, region: &str) -> Self {
        Self::start_as(space.operator.clone(), space, region)
    }

    /// Starts one with an identity.
    pub fn start_as(client: Client, space: &Space, region: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let settings = Settings {
            region: region.to_owned(),
            image: "example.org/twinshore:test".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            node_account: Some("twinshore-system/twinshore-node".parse().unwrap()),
            controller_account: None,
        };
        let run = controller::run(
            client,
            settings,
            Scope::Namespace(space.namespace.clone()),
            4,
            Arc::clone(&metrics),
            stopped,
        );
        Self {
            stop,
            task: tokio::spawn(run),
            metrics,
        }
    }

    /// Stops it, and fails if it failed.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}
