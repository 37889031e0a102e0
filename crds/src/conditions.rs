//! The vocabulary of conditions. A type or reason stands nowhere else: both are part of the API.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $word),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// As it stands in the resource.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word)),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What a condition is about. Each describes a state, not a transition.
    ConditionType {
        /// The volume can be mounted in this cluster.
        Ready,
        /// The metadata service answers.
        MetadataReady,
        /// Copies are made in both directions.
        Replicating,
        /// Both buckets hold everything.
        InSync,
        /// Something is wrong that does not keep the volume from working.
        Degraded,
        /// The last comparison of both buckets with the metadata found everything.
        Verified,
    }
}

words! {
    /// Why a condition is as it is, in one word.
    Reason {
        /// Everything is as it should be.
        AsExpected,
        /// Not looked at yet.
        NotChecked,
        /// `spec.paused` is set.
        Paused,
        /// The volume does not name this cluster's region.
        RegionNotNamed,
        /// Something in the spec cannot be used.
        InvalidSpec,
        /// A Secret that the spec names does not exist.
        SecretNotFound,
        /// A Secret lacks a key, or holds something else than expected.
        SecretInvalid,
        /// The join bundle of the primary region was not handed over yet.
        JoinBundleMissing,
        /// The join bundle is of another volume, or cannot be read.
        JoinBundleInvalid,
        /// The address under which the other region reaches the metadata service is not known yet.
        WaitingForAddress,
        /// Pods are starting.
        Starting,
        /// Pods do not start.
        PodsFailing,
        /// The metadata service does not answer.
        MetadataUnreachable,
        /// The metadata service serves another volume, or another version.
        MetadataMismatch,
        /// There is no second region.
        NoTarget,
        /// The second bucket is being taken into use.
        AddingTarget,
        /// Replication is switched off.
        ReplicationDisabled,
        /// No worker runs.
        NoWorkers,
        /// Copies are owed.
        CopiesOwed,
        /// Objects cannot be copied.
        ObjectsSetAside,
        /// What the quota allows is almost used up.
        AlmostFull,
        /// Certificates could not be made.
        CertificateFailed,
        /// The API server refused a change.
        ApplyFailed,
        /// The resource is being deleted.
        Deleting,
        /// Deletion waits for PersistentVolumes that use the volume.
        StillInUse,
    }
}

/// Yes, no, or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes.
    True,
    /// No.
    False,
    /// Not known.
    Unknown,
}

impl State {
    /// As it stands in the resource.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Longest message of a condition: the API server refuses longer ones than 32768 bytes, and nobody reads them.
pub const MESSAGE_MAX_BYTES: usize = 1024;

/// Sets a condition. The time of the last transition stays unless the status changes.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    state: State,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) {
    let message = shortened(message);
    let present = conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind.as_str());
    match present {
        Some(present) => {
            if present.status != state.as_str() {
                state.as_str().clone_into(&mut present.status);
                present.last_transition_time = now.clone();
            }
            reason.as_str().clone_into(&mut present.reason);
            present.message = message;
            present.observed_generation = generation;
        }
        None => conditions.push(Condition {
            type_: kind.as_str().to_owned(),
            status: state.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: now.clone(),
        }),
    }
}

/// The condition of a type.
pub fn get(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE_MAX_BYTES {
        return message.to_owned();
    }
    let mut end = MESSAGE_MAX_BYTES;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &message[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn the_time_of_a_transition_stays_until_the_status_changes() {
        let mut conditions = Vec::new();
        let mut set_ready = |state, reason, seconds| {
            set(
                &mut conditions,
                ConditionType::Ready,
                state,
                reason,
                "m",
                Some(1),
                &at(seconds),
            );
            conditions[0].clone()
        };
        assert_eq!(
            set_ready(State::False, Reason::Starting, 1).last_transition_time,
            at(1)
        );
        let changed_reason = set_ready(State::False, Reason::PodsFailing, 2);
        assert_eq!(changed_reason.last_transition_time, at(1));
        assert_eq!(changed_reason.reason, "PodsFailing");
        assert_eq!(
            set_ready(State::True, Reason::AsExpected, 3).last_transition_time,
            at(3)
        );
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = "ü".repeat(MESSAGE_MAX_BYTES);
        let short = shortened(&text);
        assert!(short.len() <= MESSAGE_MAX_BYTES + 3 && short.ends_with("..."));
    }

    #[test]
    fn every_reason_is_one_word_that_the_api_server_accepts() {
        for reason in Reason::ALL {
            assert!(reason.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
