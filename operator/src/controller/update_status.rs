//! Step five: what people see. Computed from what was applied and what the metadata service says; written only if it differs.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use twinshore_crds::conditions::{self, ConditionType, Reason, State};
use twinshore_crds::names::MANAGER;
use twinshore_crds::{ReplicatedVolume, ReplicatedVolumeStatus, Role};
use twinshore_protocol::Side;

use super::apply::Applied;
use super::build;
use super::certify::Certified;
use super::fullness::almost_full;
use super::pods;
use super::validate::{Exposure, Validated};
use crate::context::Context;
use crate::monitor::{Observation, Summary};
use crate::units::show_seconds;

/// What is known of a volume that was rolled out.
pub struct Known<'a> {
    /// The volume.
    pub validated: &'a Validated,
    /// Its certificates.
    pub certified: &'a Certified,
    /// What was applied.
    pub applied: &'a Applied,
    /// Its pods.
    pub pods: &'a [Pod],
    /// What the metadata service says.
    pub observation: &'a Observation,
}

/// One verdict.
struct Verdict(State, Reason, String);

impl Verdict {
    fn yes(message: &str) -> Self {
        Self(State::True, Reason::AsExpected, message.to_owned())
    }

    fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self(State::False, reason, message.into())
    }

    fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self(State::Unknown, reason, message.into())
    }
}

/// The status of a volume that was rolled out.
pub fn status_of(volume: &ReplicatedVolume, known: &Known<'_>, now: &Time) -> ReplicatedVolumeStatus {
    let Known {
        validated,
        certified,
        applied: _,
        pods: _,
        observation,
    } = known;
    let generation = volume.metadata.generation;
    let before = volume.status.clone().unwrap_or_default();
    let summary = observation.summary();
    let metadata_ready = metadata_verdict(known);
    let replicating = replicating_verdict(known, summary);
    let degraded = degraded_verdict(known, summary);
    let ready = ready_verdict(&metadata_ready);
    let mut conditions = before.conditions.clone();
    let verdicts = [
        (ConditionType::Ready, ready),
        (ConditionType::MetadataReady, metadata_ready),
        (ConditionType::Replicating, replicating),
        (ConditionType::InSync, in_sync_verdict(validated, summary)),
        (ConditionType::Degraded, degraded),
        (ConditionType::Verified, verified_verdict(summary)),
    ];
    for (kind, Verdict(state, reason, message)) in verdicts {
        conditions::set(&mut conditions, kind, state, reason, &message, generation, now);
    }
    let mut status = ReplicatedVolumeStatus {
        observed_generation: generation,
        role: Some(role(validated.side)),
        region: Some(validated.region.clone()),
        active_region: Some(validated.primary.bucket.region.clone()),
        volume_id: Some(certified.volume_id.clone()),
        endpoint: Some(build::endpoint(validated)),
        conditions,
        // What was last heard stays: it is dated by the condition.
        ..before
    };
    if let Some(summary) = summary {
        let Summary {
            epoch,
            lag_seconds,
            replication,
            usage,
            sessions,
            last_synchronisation,
            has_target: _,
            lost_objects: _,
        } = summary.clone();
        status.epoch = Some(epoch);
        status.lag = lag_seconds.map(show_seconds);
        status.replication = replication;
        status.usage = Some(usage);
        status.sessions = Some(sessions);
        status.last_synchronisation = last_synchronisation.map(Time);
    }
    status
}

/// The status of a volume that could not be rolled out.
pub fn status_of_failure(
    volume: &ReplicatedVolume,
    side: Option<Side>,
    region: &str,
    reason: Reason,
    message: &str,
    now: &Time,
) -> ReplicatedVolumeStatus {
    let generation = volume.metadata.generation;
    let before = volume.status.clone().unwrap_or_default();
    let mut conditions = before.conditions.clone();
    let mut set = |kind, state, message: &str| {
        conditions::set(&mut conditions, kind, state, reason, message, generation, now);
    };
    // A volume that worked goes on working when a later change of it cannot be made.
    let was_ready =
        conditions::get(&before.conditions, ConditionType::Ready).is_some_and(|ready| ready.status == "True");
    let worked = was_ready && reason != Reason::RegionNotNamed;
    if !worked {
        set(ConditionType::Ready, State::False, message);
    }
    set(ConditionType::Degraded, State::True, message);
    for kind in ConditionType::ALL {
        if conditions::get(&conditions, *kind).is_none() {
            conditions::set(
                &mut conditions,
                *kind,
                State::Unknown,
                Reason::NotChecked,
                "not looked at yet",
                generation,
                now,
            );
        }
    }
    ReplicatedVolumeStatus {
        observed_generation: generation,
        role: Some(side.map_or(Role::None, role)),
        region: Some(region.to_owned()),
        active_region: Some(volume.spec.primary.region.clone()),
        conditions,
        ..before
    }
}

const fn role(side: Side) -> Role {
    match side {
        Side::Primary => Role::Primary,
        Side::Target => Role::Target,
    }
}

fn metadata_verdict(known: &Known<'_>) -> Verdict {
    match known.observation {
        Observation::Heard(_) => Verdict::yes("the metadata service answers"),
        Observation::OtherVolume(message) => Verdict::no(Reason::MetadataMismatch, message),
        Observation::Silent(_) | Observation::NotYet => {
            if known.validated.side == Side::Primary {
                if let Some(trouble) = pods::trouble(known.pods, twinshore_crds::names::METADATA_COMPONENT) {
                    return Verdict::no(Reason::PodsFailing, trouble);
                }
                let ready = known
                    .applied
                    .metadata
                    .as_ref()
                    .and_then(|set| set.status.as_ref()?.ready_replicas)
                    .unwrap_or(0);
                if ready == 0 {
                    return Verdict::no(Reason::Starting, "the pod of the metadata service is starting");
                }
            }
            match known.observation {
                Observation::Silent(message) => Verdict::no(Reason::MetadataUnreachable, message),
                _ => Verdict::unknown(Reason::NotChecked, "the metadata service was not asked yet"),
            }
        }
    }
}

fn ready_verdict(Verdict(state, reason, message): &Verdict) -> Verdict {
    Verdict(
        match state {
            State::True => State::True,
            State::False | State::Unknown => State::False,
        },
        *reason,
        match state {
            State::True => "the volume can be mounted in this cluster".to_owned(),
            State::False | State::Unknown => message.clone(),
        },
    )
}

fn replicating_verdict(known: &Known<'_>, summary: Option<&Summary>) -> Verdict {
    let validated = known.validated;
    if validated.target.is_none() {
        return Verdict::no(
            Reason::NoTarget,
            "the volume has one region: add spec.target to have a second copy",
        );
    }
    if !validated.settings.replication_enabled {
        return Verdict::no(
            Reason::ReplicationDisabled,
            "spec.replication.enabled is false: new objects are not copied",
        );
    }
    match summary {
        None => Verdict::unknown(Reason::MetadataUnreachable, "the metadata service did not tell"),
        Some(summary) if !summary.has_target => {
            let trouble = pods::trouble(known.pods, twinshore_crds::names::JOB_COMPONENT);
            Verdict::no(
                Reason::AddingTarget,
                trouble.unwrap_or_else(|| "the target's bucket is being taken into use".to_owned()),
            )
        }
        Some(summary) if summary.sessions.workers == 0 => Verdict::no(
            Reason::NoWorkers,
            "no worker of either region is connected: only mounts copy what they wrote",
        ),
        Some(_) => Verdict::yes("objects are copied in both directions"),
    }
}

fn in_sync_verdict(validated: &Validated, summary: Option<&Summary>) -> Verdict {
    if validated.target.is_none() {
        return Verdict::no(Reason::NoTarget, "the volume has one region");
    }
    let Some(summary) = summary else {
        return Verdict::unknown(Reason::MetadataUnreachable, "the metadata service did not tell");
    };
    if !summary.has_target {
        return Verdict::no(
            Reason::AddingTarget,
            "the target's bucket is being taken into use",
        );
    }
    let owed: Vec<&str> = summary
        .replication
        .iter()
        .filter(|side| side.pending_objects > 0 || side.set_aside_objects > 0)
        .map(|side| side.region.as_str())
        .collect();
    if owed.is_empty() {
        Verdict::yes("both buckets hold everything")
    } else {
        // No numbers: they are in status.replication, and would change the condition every time.
        Verdict::no(
            Reason::CopiesOwed,
            format!("copies are owed to the bucket of {}", owed.join(" and ")),
        )
    }
}

fn degraded_verdict(known: &Known<'_>, summary: Option<&Summary>) -> Verdict {
    let mut problems = Vec::new();
    let mut reason = Reason::AsExpected;
    let mut add = |why: Reason, message: String| {
        if problems.is_empty() {
            reason = why;
        }
        problems.push(message);
    };
    if let Some(summary) = summary {
        for side in &summary.replication {
            if let Some(error) = side.last_error.as_ref().filter(|_| side.set_aside_objects > 0) {
                add(
                    Reason::ObjectsSetAside,
                    format!(
                        "objects cannot be copied to the bucket of {}: {error}",
                        side.region
                    ),
                );
            }
        }
    }
    if let Some(message) = summary.and_then(|summary| almost_full(&summary.usage)) {
        add(Reason::AlmostFull, message);
    }
    // A Job takes the target's bucket into use: without it nothing is copied.
    for component in [
        twinshore_crds::names::WORKER_COMPONENT,
        twinshore_crds::names::JOB_COMPONENT,
    ] {
        if let Some(trouble) = pods::trouble(known.pods, component) {
            add(Reason::PodsFailing, trouble);
        }
    }
    if let Some(message) = known.applied.worker.as_ref().and_then(stuck_rollout) {
        add(Reason::NoWorkers, message);
    }
    if known.validated.metadata.exposure == Exposure::Waiting {
        add(
            Reason::WaitingForAddress,
            format!(
                "the Service {} has no address yet, so the other region cannot be told where to come in; give \
                 spec.metadata.exposure.address, or another type",
                known.validated.names.exposed()
            ),
        );
    }
    if problems.is_empty() {
        Verdict::no(Reason::AsExpected, "nothing is wrong")
    } else {
        Verdict(State::True, reason, problems.join("; "))
    }
}

/// The Deployment controller gives a rollout ten minutes.
fn stuck_rollout(workers: &Deployment) -> Option<String> {
    let progressing = workers
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Progressing" && condition.status == "False")?;
    Some(format!(
        "the workers of this cluster do not start: {}",
        progressing.message.as_deref().unwrap_or("unknown reason")
    ))
}

fn verified_verdict(summary: Option<&Summary>) -> Verdict {
    match summary {
        None => Verdict::unknown(Reason::MetadataUnreachable, "the metadata service did not tell"),
        Some(summary) if summary.last_synchronisation.is_none() => Verdict::unknown(
            Reason::NotChecked,
            "both buckets were not compared with the metadata yet; `twinshore sync` asks for it",
        ),
        Some(summary) if summary.lost_objects > 0 => Verdict::no(
            Reason::ObjectsSetAside,
            "the last comparison found objects that are in neither bucket; `twinshore status` names them",
        ),
        Some(_) => Verdict::yes("the last comparison of both buckets with the metadata found everything"),
    }
}

/// Writes a status, if it differs from what is there. Returns whether it did.
pub async fn write(
    context: &Context,
    volume: &ReplicatedVolume,
    status: &ReplicatedVolumeStatus,
) -> Result<bool, kube::Error> {
    let namespace = volume.namespace().unwrap_or_default();
    if status.role != Some(Role::None) {
        let key = (namespace.clone(), volume.name_any());
        context.metrics.conditions(&key, &status.conditions);
    }
    if volume.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let api: Api<ReplicatedVolume> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": format!("{}/{}", twinshore_crds::GROUP, twinshore_crds::VERSION),
        "kind": "ReplicatedVolume",
        "status": status,
    });
    api.patch_status(
        &volume.name_any(),
        &PatchParams::apply(MANAGER).force(),
        &Patch::Apply(&body),
    )
    .await?;
    context.metrics.written("ReplicatedVolume/status");
    Ok(true)
}

/// The conditions that changed their status between two states: what events are about.
pub fn transitions<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    after
        .iter()
        .filter(|condition| {
            let then = before.iter().find(|then| then.type_ == condition.type_);
            then.is_none_or(|then| then.status != condition.status || then.reason != condition.reason)
        })
        .collect()
}
