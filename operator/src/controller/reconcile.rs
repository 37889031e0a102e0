//! Brings one volume in this region to its declared state.
//!
//! # Flow
//!
//! 1. An object that is no volume is told of, and left alone; the others go on.
//! 2. A volume that does not name this region gets a condition, and nothing else.
//! 3. The finalizer is set before anything is made.
//! 4. `dereference`, `validate`, `certify`, `build`, `apply`, `update_status`; a failure of any becomes a condition and an event.
//!
//! # Guarantees
//!
//! * Everything may be repeated at any point. What was made stays, and is found again by its name.
//! * The authority of a volume is created before anything is signed with it, and never replaced.
//! * Nothing is removed before everything was applied.
//! * What stands as it should is not written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::runtime::finalizer::{Error as FinalizerError, Event as FinalizerEvent, finalizer};
use kube::{Api, Resource as _, ResourceExt as _};
use twinshore_crds::conditions::{ConditionType, Reason};
use twinshore_crds::names::{FINALIZER, VOLUME_LABEL};
use twinshore_crds::{ReplicatedVolume, ReplicatedVolumeStatus};
use twinshore_protocol::Side;

use super::apply::{ApplyError, apply, keep_authority};
use super::build::{BuildError, Running, authority_secret, build, endpoint};
use super::certify::{Certified, CertifyError, certify};
use super::cleanup::{CleanupError, cleanup};
use super::dereference::{DereferenceError, dereference};
use super::hasten::hasten;
use super::update_status::{self, Known};
use super::validate::{ValidateError, Validated, side_of, validate};
use crate::context::Context;
use crate::error::{Categorised, with_causes};
use crate::monitor::{Observation, Target, VolumeKey};
use crate::transport::Material;

/// A certificate that is due is renewed within a day of that; a clock that is set back cannot keep it from being looked at.
const LOOK_AT_LEAST: Duration = Duration::from_hours(24);

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The first.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// The second.
    #[error(transparent)]
    Validate(#[from] ValidateError),
    /// The one between.
    #[error(transparent)]
    Certify(#[from] CertifyError),
    /// The third.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The fourth.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The way out.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The last.
    #[error("cannot write the status")]
    Status(#[source] kube::Error),
}

impl StepError {
    fn categorised(&self) -> Option<&dyn Categorised> {
        match self {
            Self::Dereference(error) => Some(error),
            Self::Validate(error) => Some(error),
            Self::Certify(error) => Some(error),
            Self::Build(error) => Some(error),
            Self::Apply(error) => Some(error),
            Self::Cleanup(error) => Some(error),
            Self::Status(_) => None,
        }
    }

    fn reason(&self) -> Reason {
        self.categorised()
            .map_or(Reason::ApplyFailed, Categorised::reason)
    }

    fn is_retryable(&self) -> bool {
        self.categorised().is_none_or(Categorised::is_retryable)
    }
}

/// A volume was not brought to its state, and shall be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The finalizer could not be set or removed.
    #[error("cannot change the finalizer of the volume")]
    Finalizer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Brings one volume in this region to its declared state.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<ReplicatedVolume>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let volume = match &guarded.0 {
        Ok(volume) => Arc::new(volume.clone()),
        Err(invalid) => {
            tell_unreadable(invalid, &context).await;
            return Ok(Action::await_change());
        }
    };
    context.inventory.ready().await;
    let begin = Instant::now();
    // On the heap: the state of all steps is in this future.
    let result = Box::pin(with_finalizer(&volume, &context)).await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(ReconcileError::Step(error)) => error.reason().as_str(),
        Err(ReconcileError::Finalizer(_)) => "Finalizer",
    };
    context.metrics.reconciled(outcome, begin.elapsed());
    match result {
        // What cannot help itself waits for the change that helps it.
        Err(ReconcileError::Step(error)) if !error.is_retryable() => Ok(Action::await_change()),
        other => other,
    }
}

/// An object that cannot be read gets an event; its status cannot be written, as what it should be is not known.
async fn tell_unreadable(invalid: &InvalidObject, context: &Context) {
    let InvalidObject { error, metadata } = invalid;
    let (name, namespace) = (&metadata.name, &metadata.namespace);
    tracing::error!(
        ?name,
        ?namespace,
        error,
        "this volume cannot be read: it is left alone"
    );
    context
        .metrics
        .reconciled(Reason::InvalidSpec.as_str(), Duration::ZERO);
    let regarding = ObjectReference {
        api_version: Some(ReplicatedVolume::api_version(&()).into_owned()),
        kind: Some(ReplicatedVolume::kind(&()).into_owned()),
        name: name.clone(),
        namespace: namespace.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: Reason::InvalidSpec.to_string(),
        note: Some(format!(
            "this operator cannot read the volume, and leaves it alone: {error}"
        )),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &regarding).await {
        tracing::warn!(error = with_causes(&error), "an event was not published");
    }
}

async fn with_finalizer(volume: &Arc<ReplicatedVolume>, context: &Context) -> Result<Action, ReconcileError> {
    let side = side_of(volume, &context.settings.region);
    let is_held = volume.finalizers().iter().any(|present| present == FINALIZER);
    if side.is_none() && !is_held {
        if volume.metadata.deletion_timestamp.is_none() {
            not_here(volume, context).await?;
        }
        return Ok(Action::await_change());
    }
    let namespace = volume.namespace().unwrap_or_default();
    let api: Api<ReplicatedVolume> = Api::namespaced(context.client.clone(), &namespace);
    let result = finalizer(&api, FINALIZER, Arc::clone(volume), |event| async {
        let (volume, result) = match event {
            FinalizerEvent::Apply(volume) => {
                let result = Box::pin(bring(&volume, side, context)).await;
                (volume, result)
            }
            FinalizerEvent::Cleanup(volume) => {
                let result = cleanup(&volume, side, context).await.map_err(StepError::from);
                if result.is_ok() {
                    context.metrics.forget(&(namespace.clone(), volume.name_any()));
                }
                (volume, result.map(|()| Action::await_change()))
            }
        };
        if let Err(error) = &result {
            tell(&volume, side, context, error).await?;
        }
        result
    })
    .await;
    result.map_err(|error| match error {
        FinalizerError::ApplyFailed(error) | FinalizerError::CleanupFailed(error) => {
            ReconcileError::Step(error)
        }
        other => ReconcileError::Finalizer(Box::new(other)),
    })
}

/// The steps.
async fn bring(
    volume: &ReplicatedVolume,
    side: Option<Side>,
    context: &Context,
) -> Result<Action, StepError> {
    let Some(side) = side else {
        not_here(volume, context).await?;
        return Ok(Action::await_change());
    };
    if volume.spec.paused {
        let message = "spec.paused is set: the operator changes nothing";
        fail(volume, Some(side), context, Reason::Paused, message).await?;
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let referenced = dereference(context, volume).await?;
    let validated = validate(volume, referenced, &context.settings.region, side)?;
    let certified = certify(&validated, now)?;
    if let Some(secret) = authority_secret(&validated, &certified) {
        keep_authority(context, &secret).await?;
    }
    let key: VolumeKey = (validated.namespace.clone(), validated.names.volume().to_owned());
    context
        .monitor
        .watch(key.clone(), watched(&validated, &certified));
    let observation = context.monitor.observation(&key);
    let running = Running {
        has_target: observation.summary().map(|summary| summary.has_target),
    };
    let resources = build(&validated, &certified, running, &context.settings)?;
    let applied = Box::pin(apply(context, &validated.names, &validated.namespace, resources)).await?;
    let pods: Vec<Pod> =
        context
            .inventory
            .with_label(&validated.namespace, VOLUME_LABEL, validated.names.volume());
    hasten(context, &validated.names, &validated.namespace, &pods).await?;
    let known = Known {
        validated: &validated,
        certified: &certified,
        applied: &applied,
        pods: &pods,
        observation: &observation,
    };
    // A moment after a start nothing was heard yet of a volume that works: what stands there is still the best that is known.
    if observation != Observation::NotYet || volume.status.is_none() {
        let status = update_status::status_of(volume, &known, &Time(now));
        publish(volume, &status, context).await?;
    }
    let until_due = certified.due.duration_since(now).unsigned_abs();
    Ok(Action::requeue(until_due.min(LOOK_AT_LEAST)))
}

fn watched(validated: &Validated, certified: &Certified) -> Target {
    let pair = certified.admin.as_ref().unwrap_or(&certified.client);
    Target {
        endpoint: endpoint(validated),
        volume_id: certified.volume_id.clone(),
        material: Material {
            authority: certified.authority.clone(),
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
        },
        side: validated.side,
        wanted: validated.settings.clone(),
    }
}

/// The volume does not name this region.
async fn not_here(volume: &ReplicatedVolume, context: &Context) -> Result<(), StepError> {
    let region = &context.settings.region;
    let target = volume
        .spec
        .target
        .as_ref()
        .map(|target| format!(" and {}", target.region))
        .unwrap_or_default();
    let message = format!(
        "this cluster is region {region}, the volume is in {}{target}: nothing of it runs here, and it cannot be mounted",
        volume.spec.primary.region
    );
    fail(volume, None, context, Reason::RegionNotNamed, &message).await
}

/// A failure becomes a condition and an event.
async fn tell(
    volume: &ReplicatedVolume,
    side: Option<Side>,
    context: &Context,
    error: &StepError,
) -> Result<(), StepError> {
    let message = with_causes(error);
    tracing::warn!(
        volume = volume.name_any(),
        namespace = volume.namespace(),
        error = message,
        "a step failed"
    );
    match error {
        StepError::Status(_) => Ok(()),
        // Somebody else was quicker, or the API server is busy: that is no news.
        StepError::Apply(ApplyError::Refused {
            source: kube::Error::Api(response),
            ..
        }) if response.is_conflict() || response.code >= 500 => Ok(()),
        _ => fail(volume, side, context, error.reason(), &message).await,
    }
}

async fn fail(
    volume: &ReplicatedVolume,
    side: Option<Side>,
    context: &Context,
    reason: Reason,
    message: &str,
) -> Result<(), StepError> {
    let status = update_status::status_of_failure(
        volume,
        side,
        &context.settings.region,
        reason,
        message,
        &Time(Timestamp::now()),
    );
    publish(volume, &status, context).await
}

/// Writes the status if it differs, and an event for each condition that did.
async fn publish(
    volume: &ReplicatedVolume,
    status: &ReplicatedVolumeStatus,
    context: &Context,
) -> Result<(), StepError> {
    let is_written = update_status::write(context, volume, status)
        .await
        .map_err(StepError::Status)?;
    if !is_written {
        return Ok(());
    }
    let before = volume
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    for condition in update_status::transitions(before, &status.conditions) {
        let Some(kind) = event_type(condition) else {
            continue;
        };
        let event = Event {
            type_: kind,
            reason: condition.reason.clone(),
            note: Some(format!("{}: {}", condition.type_, condition.message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = context.recorder.publish(&event, &volume.object_ref(&())).await {
            tracing::warn!(error = with_causes(&error), "an event was not published");
        }
    }
    Ok(())
}

/// Only what a person would want to be told.
fn event_type(condition: &Condition) -> Option<EventType> {
    let is = |kind: ConditionType| condition.type_ == kind.as_str();
    match condition.status.as_str() {
        "True" if is(ConditionType::Degraded) => Some(EventType::Warning),
        "True" if is(ConditionType::Ready) => Some(EventType::Normal),
        "False" if is(ConditionType::Ready) && condition.reason == Reason::Starting.as_str() => {
            Some(EventType::Normal)
        }
        "False" if is(ConditionType::Ready) || is(ConditionType::Verified) => Some(EventType::Warning),
        _ => None,
    }
}
