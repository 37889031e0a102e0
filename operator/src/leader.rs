//! Which of several operators of a cluster works: the holder of a lease.
//!
//! # Flow
//!
//! 1. Everyone reads the lease every few seconds, and decides by the pure [`decide`].
//! 2. Who finds it free, or not renewed for its duration, writes its own name into it, with the version that it read: of two who do so at
//!    once, the API server lets one through.
//! 3. The holder renews it. If it cannot for longer than [`RENEW_DEADLINE`], or finds another name in it, it ends: the process exits, and
//!    is started again as one who waits.
//!
//! # Caveats
//!
//! This saves work, it does not fence: for a moment two may work. Everything that the operator does may be done twice; what must not
//! happen twice is decided by the API server (`create`) or by the metadata service (epochs).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use crate::error::with_causes;

/// The name of the lease.
const LEASE: &str = "twinshore-operator";
/// How long a holder that is silent is believed in. A restart of the API server must not change the leader.
const LEASE_SECONDS: i32 = 15;
/// How often the lease is renewed, or looked at: three attempts fit into the deadline.
const INTERVAL: Duration = Duration::from_secs(3);
/// A holder that could not renew for so long ends, before others stop believing in it.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// What an instance does about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is none: create it.
    Create,
    /// It is free: take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// It is another's.
    Wait,
}

/// What an instance saw of the lease, on its own clock: the clocks of holders are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The version of the lease.
    pub version: Option<String>,
    /// When it was first seen in this version.
    pub since: Instant,
}

/// What to do. Pure: what was seen and the time are arguments.
pub fn decide(lease: Option<&Lease>, me: &str, seen: Option<&Seen>, now: Instant) -> Decision {
    let Some(lease) = lease else {
        return Decision::Create;
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .filter(|holder| !holder.is_empty());
    match holder {
        Some(holder) if holder == me => return Decision::Renew,
        None => return Decision::Acquire,
        Some(_) => {}
    }
    let believed_seconds = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or_default();
    match seen {
        Some(seen)
            if seen.version == lease.metadata.resource_version
                && now.duration_since(seen.since) >= Duration::from_secs(believed_seconds) =>
        {
            Decision::Acquire
        }
        _ => Decision::Wait,
    }
}

/// The lease as an instance writes it.
fn claimed(lease: Option<&Lease>, me: &str, now: Timestamp) -> Lease {
    let before = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let is_mine = before.holder_identity.as_deref() == Some(me);
    Lease {
        metadata: lease.map_or_else(
            || ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            acquire_time: if is_mine {
                before.acquire_time
            } else {
                Some(MicroTime(now))
            },
            lease_transitions: if is_mine {
                before.lease_transitions
            } else {
                Some(before.lease_transitions.unwrap_or(0).saturating_add(1))
            },
            ..before
        }),
    }
}

/// The lease of this cluster's operators.
pub struct Election {
    api: Api<Lease>,
    me: String,
    seen: Option<Seen>,
}

impl Election {
    /// In the operator's namespace, under this name.
    pub fn new(client: Client, namespace: &str, me: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
            seen: None,
        }
    }

    /// Waits until this instance is the one.
    pub async fn win(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(error = with_causes(&error), "cannot look at the lease"),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Renews until it cannot any more, or another has the lease.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(INTERVAL).await;
            let remaining = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(remaining, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!("another instance has the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(error = with_causes(&error), "the lease was not renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                tracing::error!("the lease could not be renewed in time");
                return;
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait. Failing to costs only time.
    pub async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(LEASE).await else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        else {
            return;
        };
        spec.holder_identity = None;
        if let Err(error) = self.api.replace(LEASE, &PostParams::default(), &lease).await {
            tracing::warn!(error = with_causes(&error), "the lease was not given back");
        }
    }

    /// Looks at the lease once and does what is decided. Whether this instance has it now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(LEASE).await?;
        let now = Instant::now();
        let decision = decide(lease.as_ref(), &self.me, self.seen.as_ref(), now);
        let version = lease
            .as_ref()
            .and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Seen { version, since: now });
        }
        let claimed = claimed(lease.as_ref(), &self.me, Timestamp::now());
        let written = match decision {
            Decision::Wait => return Ok(false),
            Decision::Create => self.api.create(&PostParams::default(), &claimed).await,
            // Only over the version that was read.
            Decision::Acquire | Decision::Renew => {
                self.api.replace(LEASE, &PostParams::default(), &claimed).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(response)) if response.is_conflict() || response.is_already_exists() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(LEASE_SECONDS),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_nobody_renewed_it_for_as_long_as_it_says() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let seen = |version: &str| Seen {
            version: Some(version.to_owned()),
            since: start,
        };
        let cases = [
            (None, None, 0, Decision::Create),
            (Some(lease(None, "1")), None, 0, Decision::Acquire),
            (Some(lease(Some(""), "1")), None, 0, Decision::Acquire),
            (Some(lease(Some("me"), "1")), None, 0, Decision::Renew),
            (
                Some(lease(Some("me"), "1")),
                Some(seen("1")),
                100,
                Decision::Renew,
            ),
            (Some(lease(Some("other"), "1")), None, 0, Decision::Wait),
            (
                Some(lease(Some("other"), "1")),
                Some(seen("1")),
                14,
                Decision::Wait,
            ),
            (
                Some(lease(Some("other"), "1")),
                Some(seen("1")),
                15,
                Decision::Acquire,
            ),
            // It was renewed meanwhile.
            (
                Some(lease(Some("other"), "2")),
                Some(seen("1")),
                100,
                Decision::Wait,
            ),
        ];
        for (lease, seen, seconds, expected) in cases {
            assert_eq!(
                decide(lease.as_ref(), "me", seen.as_ref(), after(seconds)),
                expected,
                "{lease:?} {seen:?} {seconds}"
            );
        }
    }

    #[test]
    fn a_renewed_lease_keeps_when_it_was_acquired() {
        let early = Timestamp::from_second(1000).unwrap();
        let late = Timestamp::from_second(2000).unwrap();
        let first = claimed(Some(&lease(Some("other"), "7")), "me", early);
        let renewed = claimed(Some(&first), "me", late);
        let (first, renewed) = (first.spec.unwrap(), renewed.spec.unwrap());
        assert_eq!(first.acquire_time, Some(MicroTime(early)));
        assert_eq!(first.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, Some(MicroTime(early)));
        assert_eq!(renewed.renew_time, Some(MicroTime(late)));
        assert_eq!(renewed.lease_transitions, Some(1));
    }
}
