//! Step four: server-side apply by one field manager, in an order in which nothing starts before what it needs is there; then garbage
//! collection of what is no longer wanted, which a partial rollout never reaches.
//!
//! What stands in the API server as it was left, and should still be the same, is not written again: at rest there are no writes.

use std::collections::HashSet;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twinshore_crds::conditions::Reason;
use twinshore_crds::names::{MANAGED_BY_LABEL, MANAGER, VOLUME_LABEL, VolumeNames};

use super::build::Resources;
use crate::context::Context;
use crate::error::Categorised;
use crate::inventory::{Key, fingerprint};

/// Kinds of which nothing is left over. Claims are not among them: they hold data.
const COLLECTED: [&str; 9] = [
    "StatefulSet",
    "Deployment",
    "Job",
    "Service",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "RoleBinding",
    "Role",
    "Secret",
];

/// The API server did not take something.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It refused.
    #[error("the API server refuses the {kind} {name}")]
    Refused {
        /// Which kind.
        kind: String,
        /// Which object.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// An object has no name.
    #[error("a {0} has no name")]
    NoName(String),
    /// An object cannot be written down.
    #[error("cannot write the {kind} {name} down")]
    Json {
        /// Which kind.
        kind: String,
        /// Which object.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Something that belongs to somebody else has the name.
    #[error("there is a {kind} {name} that belongs to somebody else: rename or remove it")]
    Foreign {
        /// Which kind.
        kind: String,
        /// Which object.
        name: String,
    },
}

impl Categorised for ApplyError {
    fn reason(&self) -> Reason {
        Reason::ApplyFailed
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Foreign { .. } => true,
            Self::NoName(_) | Self::Json { .. } => false,
        }
    }
}

/// What was applied, as it stands in the API server: what status is made of.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The metadata service.
    pub metadata: Option<StatefulSet>,
    /// The workers.
    pub worker: Option<Deployment>,
}

/// Keeps an authority that was made just now. It is created, never applied: if there is one already, that one is right, and the
/// next attempt uses it.
pub async fn keep_authority(context: &Context, secret: &Secret) -> Result<(), ApplyError> {
    let namespace = secret.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    api.create(&PostParams::default(), secret)
        .await
        .map(|_| ())
        .map_err(|source| ApplyError::Refused {
            kind: "Secret".to_owned(),
            name: secret.name_any(),
            source,
        })
}

/// Applies everything of a volume, and removes what is left over.
pub async fn apply(
    context: &Context,
    names: &VolumeNames,
    namespace: &str,
    resources: Resources,
) -> Result<Applied, ApplyError> {
    let mut rollout = Rollout {
        context,
        namespace,
        wanted: HashSet::new(),
    };
    // Taken apart completely, so that what is added there cannot be forgotten here.
    let Resources {
        secrets,
        roles,
        role_bindings,
        claim,
        services,
        network_policy,
        disruption_budgets,
        metadata,
        worker,
        jobs,
    } = resources;
    rollout.all(&secrets).await?;
    rollout.all(&roles).await?;
    rollout.all(&role_bindings).await?;
    rollout.all(claim.as_slice()).await?;
    rollout.all(&services).await?;
    rollout.all(network_policy.as_slice()).await?;
    rollout.all(&disruption_budgets).await?;
    let metadata = rollout.all(metadata.as_slice()).await?.pop();
    let worker = rollout.all(worker.as_slice()).await?.pop();
    rollout.all(&jobs).await?;
    rollout.collect_garbage(names).await?;
    Ok(Applied { metadata, worker })
}

struct Rollout<'a> {
    context: &'a Context,
    namespace: &'a str,
    wanted: HashSet<(String, String)>,
}

impl Rollout<'_> {
    async fn all<K>(&mut self, objects: &[K]) -> Result<Vec<K>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let mut applied = Vec::with_capacity(objects.len());
        for object in objects {
            applied.push(self.one(object).await?);
        }
        Ok(applied)
    }

    async fn one<K>(&mut self, object: &K) -> Result<K, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let kind = K::kind(&()).into_owned();
        let name = object
            .meta()
            .name
            .clone()
            .ok_or_else(|| ApplyError::NoName(kind.clone()))?;
        let desired = serde_json::to_value(object).map_err(|source| ApplyError::Json {
            kind: kind.clone(),
            name: name.clone(),
            source,
        })?;
        self.wanted.insert((kind.clone(), name.clone()));
        let key: Key = (kind.clone(), self.namespace.to_owned(), name.clone());
        let mark = fingerprint(&desired);
        let inventory = &self.context.inventory;
        let version = inventory.resource_version(&kind, self.namespace, &name);
        if self.context.memory.holds(&key, &mark, version.as_deref())
            && let Some(live) = inventory.get::<K>(self.namespace, &name)
        {
            return Ok(live);
        }
        if let Some(live) = inventory.get::<K>(self.namespace, &name)
            && is_foreign(&live, object)
        {
            return Err(ApplyError::Foreign { kind, name });
        }
        let api: Api<K> = Api::namespaced(self.context.client.clone(), self.namespace);
        let live = api
            .patch(
                &name,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(&desired),
            )
            .await
            .map_err(|source| ApplyError::Refused {
                kind: kind.clone(),
                name: name.clone(),
                source,
            })?;
        self.context.metrics.written(&kind);
        if live.meta().resource_version != version {
            tracing::info!(kind, name, namespace = self.namespace, "applied");
        }
        if let Some(version) = live.meta().resource_version.clone() {
            self.context.memory.remember(key, mark, version);
        }
        Ok(live)
    }

    /// Removes what the operator made for this volume and no longer wants.
    async fn collect_garbage(&self, names: &VolumeNames) -> Result<(), ApplyError> {
        let found = self
            .context
            .inventory
            .all_with_label(self.namespace, VOLUME_LABEL, names.volume());
        for (resource, object) in found {
            if !is_garbage(&resource, &object, &self.wanted, names) {
                continue;
            }
            let name = object.name_any();
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.context.client.clone(), self.namespace, &resource);
            match api.delete(&name, &DeleteParams::background()).await {
                Ok(_) => {
                    tracing::info!(kind = resource.kind, name, namespace = self.namespace, "removed");
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(source) => {
                    return Err(ApplyError::Refused {
                        kind: resource.kind,
                        name,
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

/// An object of this name that has another controller, or that a user made.
fn is_foreign<K: Resource>(live: &K, desired: &K) -> bool {
    let ours = |object: &K| {
        object
            .meta()
            .owner_references
            .iter()
            .flatten()
            .filter(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
            .collect::<Vec<_>>()
    };
    let (live_owners, desired_owners) = (ours(live), ours(desired));
    !live_owners.is_empty() && live_owners != desired_owners
}

fn is_garbage(
    resource: &ApiResource,
    object: &DynamicObject,
    wanted: &HashSet<(String, String)>,
    names: &VolumeNames,
) -> bool {
    let name = object.name_any();
    let ours = object
        .labels()
        .get(MANAGED_BY_LABEL)
        .is_some_and(|manager| manager == MANAGER);
    ours && COLLECTED.contains(&resource.kind.as_str())
        && object.metadata.deletion_timestamp.is_none()
        // Trust is never made twice: it goes with the volume only.
        && name != names.authority()
        && name != names.join()
        && !wanted.contains(&(resource.kind.clone(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, manager: &str) -> DynamicObject {
        let resource = ApiResource::erase::<Secret>(&());
        DynamicObject::new(name, &resource)
            .within("team")
            .data(serde_json::json!({}))
            .with_labels(manager)
    }

    trait WithLabels {
        fn with_labels(self, manager: &str) -> Self;
    }

    impl WithLabels for DynamicObject {
        fn with_labels(mut self, manager: &str) -> Self {
            self.labels_mut()
                .insert(MANAGED_BY_LABEL.to_owned(), manager.to_owned());
            self
        }
    }

    #[test]
    fn only_what_the_operator_made_and_does_not_want_is_garbage() {
        let names = VolumeNames::new("documents");
        let resource = ApiResource::erase::<Secret>(&());
        let wanted = HashSet::from([("Secret".to_owned(), "documents-client".to_owned())]);
        let is_garbage =
            |name: &str, manager: &str| super::is_garbage(&resource, &secret(name, manager), &wanted, &names);
        assert!(is_garbage("documents-admin", MANAGER));
        assert!(!is_garbage("documents-client", MANAGER), "wanted");
        assert!(!is_garbage("documents-admin", "somebody"), "of somebody else");
        assert!(!is_garbage("documents-ca", MANAGER), "trust");
        assert!(!is_garbage("documents-join", MANAGER), "trust");
        let claim = ApiResource::erase::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&());
        assert!(
            !super::is_garbage(&claim, &secret("data", MANAGER), &wanted, &names),
            "data"
        );
    }
}
