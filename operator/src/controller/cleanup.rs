//! The way out: what happens before a volume's resource may go.
//!
//! # Flow
//!
//! 1. As long as a PersistentVolume of this cluster uses the volume, it stays, and says so.
//! 2. `Retain`: nothing more. What belongs to the resource goes with it; the authority and the disk of the metadata service stay, so that
//!    the same resource, made again, finds the same volume.
//! 3. `Delete`, in the primary's cluster: mounts of the other cluster must be gone too; metadata service and workers are stopped; a Job
//!    empties both buckets; then disk, authority and bundle are removed.
//!
//! # Guarantees
//!
//! * Nothing of a volume is removed while something of this cluster uses it.
//! * Each step may be repeated: what is gone already is no error.

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use twinshore_crds::conditions::Reason;
use twinshore_crds::names::{
    CSI_DRIVER, CSI_VOLUME_ATTRIBUTE, JOB_COMPONENT, MANAGER, VOLUME_LABEL, VolumeNames,
};
use twinshore_crds::{DeletionPolicy, ReplicatedVolume};
use twinshore_protocol::Side;

use super::build::destroy_job;
use super::certify::{CertifyError, certify};
use super::dereference::{DereferenceError, dereference};
use super::pods;
use super::validate::{ValidateError, validate};
use crate::context::Context;
use crate::error::Categorised;

/// The volume cannot go yet.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The API server did not answer.
    #[error("cannot {what}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// Something uses it.
    #[error("the volume is still used by {0}: delete what uses it first")]
    InUse(String),
    /// Something takes its time.
    #[error("the volume is being deleted: {0}")]
    Waiting(String),
    /// What it refers to cannot be read.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// What it refers to is not there any more.
    #[error(
        "both buckets are to be emptied (spec.deletionPolicy is Delete), which needs what the volume refers to"
    )]
    Validate(#[from] ValidateError),
    /// There are no certificates.
    #[error(transparent)]
    Certify(#[from] CertifyError),
}

impl Categorised for CleanupError {
    fn reason(&self) -> Reason {
        match self {
            Self::InUse(_) => Reason::StillInUse,
            Self::Api { .. } | Self::Waiting(_) => Reason::Deleting,
            Self::Dereference(error) => error.reason(),
            Self::Validate(error) => error.reason(),
            Self::Certify(error) => error.reason(),
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::InUse(_) | Self::Api { .. } | Self::Waiting(_) => true,
            Self::Dereference(error) => error.is_retryable(),
            Self::Validate(error) => error.is_retryable(),
            Self::Certify(error) => error.is_retryable(),
        }
    }
}

/// Prepares a volume for its end. `Ok` lets it go.
pub async fn cleanup(
    volume: &ReplicatedVolume,
    side: Option<Side>,
    context: &Context,
) -> Result<(), CleanupError> {
    let names = VolumeNames::new(volume.name_any());
    let namespace = volume.namespace().unwrap_or_default();
    let key = (namespace.clone(), names.volume().to_owned());
    if let Some(user) = user_in_this_cluster(context, &namespace, names.volume()).await? {
        return Err(CleanupError::InUse(user));
    }
    if side == Some(Side::Primary) && volume.spec.deletion_policy == DeletionPolicy::Delete {
        let mounts = context
            .monitor
            .observation(&key)
            .summary()
            .map_or(0, |summary| summary.sessions.mounts);
        if mounts > 0 {
            return Err(CleanupError::InUse(format!(
                "{mounts} mounts, as its metadata service says"
            )));
        }
        remove_everything(volume, context, &names, &namespace).await?;
    }
    context.monitor.forget(&key);
    context.memory.forget(&namespace, |name| {
        name.starts_with(&format!("{}-", names.volume()))
    });
    Ok(())
}

/// A PersistentVolume that uses the volume.
async fn user_in_this_cluster(
    context: &Context,
    namespace: &str,
    volume: &str,
) -> Result<Option<String>, CleanupError> {
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let volumes = api
        .list(&ListParams::default())
        .await
        .map_err(failed("see which PersistentVolumes use the volume"))?;
    Ok(volumes
        .items
        .iter()
        .find(|user| uses(user, namespace, volume))
        .map(|user| {
            let claim = user.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let claim = claim.map(|claim| {
                format!(
                    " of the claim {}/{}",
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default()
                )
            });
            format!(
                "the PersistentVolume {}{}",
                user.name_any(),
                claim.unwrap_or_default()
            )
        }))
}

fn uses(user: &PersistentVolume, namespace: &str, volume: &str) -> bool {
    let Some(csi) = user.spec.as_ref().and_then(|spec| spec.csi.as_ref()) else {
        return false;
    };
    csi.driver == CSI_DRIVER
        && csi
            .volume_attributes
            .as_ref()
            .and_then(|attributes| attributes.get(CSI_VOLUME_ATTRIBUTE))
            .is_some_and(|attribute| *attribute == format!("{namespace}/{volume}"))
}

async fn remove_everything(
    volume: &ReplicatedVolume,
    context: &Context,
    names: &VolumeNames,
    namespace: &str,
) -> Result<(), CleanupError> {
    let client = &context.client;
    let authorities: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let has_authority = authorities
        .get_opt(&names.authority())
        .await
        .map_err(failed("read the authority of the volume"))?
        .is_some();
    // Without one nothing was ever made, or everything is gone already.
    if !has_authority {
        return Ok(());
    }
    // The monitor would only report that the service is gone.
    context
        .monitor
        .forget(&(namespace.to_owned(), names.volume().to_owned()));
    let is_metadata_gone = gone::<StatefulSet>(context, namespace, &names.metadata()).await?;
    let is_worker_gone = gone::<Deployment>(context, namespace, &names.worker()).await?;
    if !is_metadata_gone || !is_worker_gone {
        return Err(CleanupError::Waiting(
            "its metadata service and workers are stopping".to_owned(),
        ));
    }
    empty_buckets(volume, context, names, namespace).await?;
    gone::<PersistentVolumeClaim>(context, namespace, &names.metadata_claim()).await?;
    gone::<Secret>(context, namespace, &names.join()).await?;
    // Last: as long as it is there, the way out is not at its end.
    gone::<Secret>(context, namespace, &names.authority()).await?;
    Ok(())
}

async fn empty_buckets(
    volume: &ReplicatedVolume,
    context: &Context,
    names: &VolumeNames,
    namespace: &str,
) -> Result<(), CleanupError> {
    let referenced = dereference(context, volume).await?;
    let validated = validate(volume, referenced, &context.settings.region, Side::Primary)?;
    let certified = certify(&validated, Timestamp::now())?;
    let job = destroy_job(&validated, &certified, &context.settings);
    let name = job.name_any();
    let api: Api<Job> = Api::namespaced(context.client.clone(), namespace);
    let live = match api
        .get_opt(&name)
        .await
        .map_err(failed("read the Job that empties the buckets"))?
    {
        Some(live) => live,
        None => api
            .patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&job))
            .await
            .map_err(failed("start the Job that empties the buckets"))?,
    };
    if live.status.and_then(|status| status.succeeded).unwrap_or(0) > 0 {
        return Ok(());
    }
    let pods: Vec<Pod> = context
        .inventory
        .with_label(namespace, VOLUME_LABEL, names.volume());
    let trouble = pods::trouble(&pods, JOB_COMPONENT);
    Err(CleanupError::Waiting(
        trouble.unwrap_or_else(|| "both buckets are being emptied".to_owned()),
    ))
}

/// Deletes an object with everything that belongs to it. Whether it is gone.
async fn gone<K>(context: &Context, namespace: &str, name: &str) -> Result<bool, CleanupError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    match api.delete(name, &DeleteParams::foreground()).await {
        // With finalizers or dependents it is still there for a while.
        Ok(_) => Ok(false),
        Err(kube::Error::Api(response)) if response.is_not_found() => Ok(true),
        Err(source) => Err(failed("remove what belongs to the volume")(source)),
    }
}

fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> CleanupError {
    move |source| CleanupError::Api { what, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_persistent_volume_of_this_driver_and_this_volume_uses_it() {
        let user = |driver: &str, attribute: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": {"name": "pv"},
                "spec": {"csi": {
                    "driver": driver,
                    "volumeHandle": "h",
                    "volumeAttributes": {CSI_VOLUME_ATTRIBUTE: attribute},
                }},
            }))
            .unwrap()
        };
        assert!(uses(&user(CSI_DRIVER, "team/documents"), "team", "documents"));
        assert!(!uses(&user(CSI_DRIVER, "other/documents"), "team", "documents"));
        assert!(!uses(&user("ebs", "team/documents"), "team", "documents"));
        assert!(!uses(&PersistentVolume::default(), "team", "documents"));
    }
}
