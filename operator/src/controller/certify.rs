//! Between validate and build: keys and certificates, of which build only needs the text. Random keys, no IO, the time as an
//! argument.

use std::collections::BTreeSet;

use jiff::Timestamp;
use twinshore_crds::conditions::Reason;
use twinshore_protocol::Side;

use super::validate::{TrustSource, Validated};
use crate::error::Categorised;
use crate::trust::{
    Authority, AuthorityError, Decision, LeafError, LeafRequest, Pair, PartRole, decide, issue,
};

/// There are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// No authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No leaf.
    #[error("cannot certify the {role} of the volume")]
    Leaf {
        /// Whose.
        role: &'static str,
        /// Why not.
        #[source]
        source: LeafError,
    },
}

impl Categorised for CertifyError {
    fn reason(&self) -> Reason {
        Reason::CertificateFailed
    }

    fn is_retryable(&self) -> bool {
        // The intermediate is in a Secret that is watched.
        false
    }
}

/// The certificates of a volume in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The volume's identity.
    pub volume_id: String,
    /// The certificate that every part trusts.
    pub authority: String,
    /// The authority itself, in the primary's cluster.
    pub own_authority: Option<Box<Authority>>,
    /// It was made just now, and must be kept before anything is built on it.
    pub is_new: bool,
    /// Of the metadata service, in the primary's cluster.
    pub metadata: Option<Pair>,
    /// Of the workers.
    pub worker: Pair,
    /// Of the mounts.
    pub client: Pair,
    /// Of the controller plugin, which may do what a mount may: claims are a client's business in both clusters.
    pub controller: Pair,
    /// Of administration, in the primary's cluster.
    pub admin: Option<Pair>,
    /// When the first of them is due.
    pub due: Timestamp,
}

/// Decides about each certificate, and issues those that are due.
pub fn certify(validated: &Validated, now: Timestamp) -> Result<Certified, CertifyError> {
    let (own_authority, is_new) = match &validated.trust {
        TrustSource::Authority(Some(authority)) => (Some(authority.clone()), false),
        TrustSource::Authority(None) => {
            // A volume that is made for a resource has the resource's identity: trying again makes the same volume.
            let authority = Authority::generate(&validated.uid, now)?;
            (Some(Box::new(authority)), true)
        }
        TrustSource::Bundle(_) => (None, false),
    };
    let (volume_id, root, issuer) = match (&own_authority, &validated.trust) {
        (Some(authority), _) => (
            authority.volume_id.clone(),
            authority.root.certificate.clone(),
            authority.primary.clone(),
        ),
        (None, TrustSource::Bundle(bundle)) => (
            bundle.volume_id.clone(),
            bundle.authority.clone(),
            bundle.intermediate.clone(),
        ),
        (None, TrustSource::Authority(_)) => {
            return Err(CertifyError::Authority(AuthorityError::Missing("ca.crt")));
        }
    };
    let mut due = Timestamp::MAX;
    let mut leaf =
        |role: PartRole, hosts: BTreeSet<String>, present: Option<&Pair>| -> Result<Pair, CertifyError> {
            let request = LeafRequest {
                volume_id: volume_id.clone(),
                role,
                hosts,
            };
            let failed = |source| CertifyError::Leaf {
                role: role.as_str(),
                source,
            };
            if let (Decision::Keep { due: then }, Some(present)) =
                (decide(present, &request, &issuer, now), present)
            {
                due = due.min(then);
                return Ok(present.clone());
            }
            let fresh = issue(&request, &issuer, now).map_err(failed)?;
            if let Decision::Keep { due: then } = decide(Some(&fresh), &request, &issuer, now) {
                due = due.min(then);
            }
            Ok(fresh)
        };
    let present = &validated.present;
    let (metadata, admin) = match validated.side {
        Side::Primary => (
            Some(leaf(
                PartRole::Admin,
                validated.metadata_hosts(),
                present.metadata.as_ref(),
            )?),
            Some(leaf(PartRole::Admin, BTreeSet::new(), present.admin.as_ref())?),
        ),
        Side::Target => (None, None),
    };
    let worker = leaf(PartRole::Worker, BTreeSet::new(), present.worker.as_ref())?;
    let client = leaf(PartRole::Client, BTreeSet::new(), present.client.as_ref())?;
    let controller = leaf(PartRole::Client, BTreeSet::new(), present.controller.as_ref())?;
    Ok(Certified {
        volume_id,
        authority: root,
        own_authority,
        is_new,
        metadata,
        worker,
        client,
        controller,
        admin,
        due,
    })
}
