//! The controller: what wakes it, and how it is run.

mod apply;
pub mod build;
mod certify;
mod cleanup;
pub(crate) mod dereference;
mod fullness;
mod hasten;
mod pods;
mod reconcile;
mod update_status;
pub mod validate;
mod validated;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ApiResource, DynamicObject};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, Predicate as _, PredicateConfig, WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use twinshore_crds::ReplicatedVolume;
use twinshore_crds::names::{MANAGED_BY_LABEL, MANAGER, VOLUME_LABEL, VolumeNames};

use crate::context::{Context, Settings};
use crate::inventory::{Inventory, Memory};
use crate::metrics::Metrics;
use crate::monitor::{Monitor, VolumeKey};
use reconcile::ReconcileError;

/// How soon what failed is tried again, unless something changes before.
const RETRY: Duration = Duration::from_secs(15);
/// Changes that come together are looked at together: a rollout changes many objects within a moment.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// A volume, or an object that says it is one.
type Guarded = DeserializeGuard<ReplicatedVolume>;

/// Which volumes are looked after.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All of the cluster.
    Cluster,
    /// Those of a namespace.
    Namespace(String),
}

impl Scope {
    /// The scopes of a list of namespaces; none means all.
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        if namespaces.is_empty() {
            return vec![Self::Cluster];
        }
        namespaces.iter().cloned().map(Self::Namespace).collect()
    }

    pub(crate) fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }

    fn dynamic_api(&self, client: &Client, resource: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::Cluster => Api::all_with(client.clone(), resource),
            Self::Namespace(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        }
    }
}

/// Looks after the volumes of a scope until it is told to stop.
pub async fn run(
    client: Client,
    settings: Settings,
    scope: Scope,
    concurrency: u16,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) {
    let (volumes, writer) = reflector::store::<Guarded>();
    let triggers = watcher(scope.api::<Guarded>(&client), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            // Not the status, which the operator writes itself.
            predicates::generation
                .combine(predicates::finalizers)
                .combine(predicates::annotations),
            PredicateConfig::default(),
        );
    let mut controller = Controller::for_stream(triggers, volumes.clone())
        .with_config(Config::default().concurrency(concurrency).debounce(DEBOUNCE));
    let mut inventory = Inventory::default();
    for resource in [
        resource::<Secret>(),
        resource::<Role>(),
        resource::<RoleBinding>(),
        resource::<PersistentVolumeClaim>(),
        resource::<Service>(),
        resource::<NetworkPolicy>(),
        resource::<PodDisruptionBudget>(),
        resource::<StatefulSet>(),
        resource::<Deployment>(),
        resource::<Job>(),
        resource::<Pod>(),
    ] {
        controller = own(controller, &client, &scope, resource, &mut inventory);
    }
    // The metadata of all Secrets, never their content: which of them a volume refers to is known only by its name.
    let secrets = watcher(
        scope.api::<PartialObjectMeta<Secret>>(&client),
        watcher::Config::default(),
    )
    .default_backoff()
    .touched_objects()
    .predicate_filter(predicates::resource_version, PredicateConfig::default());
    controller = controller.watches_stream(secrets, move |secret| who_refers(&volumes, &secret));
    let (monitor, changes) = Monitor::new();
    controller = controller.reconcile_on(references(changes));
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter::from(MANAGER)),
        client,
        settings,
        inventory,
        memory: Memory::default(),
        monitor,
        metrics,
    });
    controller
        .graceful_shutdown_on(stopped(stop))
        .run(reconcile::reconcile, retry, context)
        .for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(
                    error = crate::error::with_causes(&error),
                    "a volume was not reconciled"
                );
            }
            std::future::ready(())
        })
        .await;
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone stops as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Watches what the operator made of a kind, and remembers it.
fn own(
    controller: Controller<Guarded>,
    client: &Client,
    scope: &Scope,
    resource: ApiResource,
    inventory: &mut Inventory,
) -> Controller<Guarded> {
    let writer = reflector::store::Writer::<DynamicObject>::new(resource.clone());
    inventory.add(resource.clone(), writer.as_reader());
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"));
    let stream = watcher(scope.dynamic_api(client, &resource), ours)
        .default_backoff()
        .modify(|object| {
            // Nobody reads them, and they are most of many objects.
            object.managed_fields_mut().clear();
        })
        .reflect(writer)
        .touched_objects();
    controller.watches_stream_with(stream, |object| whose(&object), resource)
}

/// The volume that an object belongs to.
fn whose(object: &DynamicObject) -> Option<ObjectRef<Guarded>> {
    let volume = object.labels().get(VOLUME_LABEL)?;
    Some(ObjectRef::new(volume).within(object.namespace().as_deref()?))
}

/// The volumes that refer to a Secret, or take it for their trust.
fn who_refers(volumes: &Store<Guarded>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<Guarded>> {
    let name = secret.name_any();
    let namespace = secret.namespace();
    let refers = |volume: &Guarded| {
        let Guarded { 0: Ok(volume) } = volume else {
            return false;
        };
        let names = VolumeNames::new(volume.name_any());
        volume.namespace() == namespace
            && (dereference::referred_secrets(volume).contains(&name.as_str())
                || name == names.join()
                || name == names.authority())
    };
    volumes
        .state_filter(refers)
        .iter()
        .map(|volume| ObjectRef::from_obj(&**volume))
        .collect()
}

/// Volumes whose metadata service says something new.
fn references(changes: mpsc::Receiver<VolumeKey>) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    stream::unfold(changes, |mut changes| async move {
        let (namespace, name) = changes.recv().await?;
        Some((ObjectRef::new(&name).within(&namespace), changes))
    })
}

fn retry(_: Arc<Guarded>, _: &ReconcileError, _: Arc<Context>) -> Action {
    Action::requeue(RETRY)
}
