//! Who may reach the metadata service.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use twinshore_crds::names::{METADATA_COMPONENT, METADATA_HTTP_PORT, METADATA_PORT};

use super::super::validate::Validated;
use super::{metadata, owned};

/// Only its two ports. Mounts come from nodes and from the other region, whose addresses nobody knows here: who may speak is decided by
/// the certificate.
pub fn policy(validated: &Validated) -> NetworkPolicy {
    let port = |number| NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicy {
        metadata: owned(validated, validated.names.metadata(), METADATA_COMPONENT),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(metadata::selector(validated)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                ports: Some(vec![port(METADATA_PORT), port(METADATA_HTTP_PORT)]),
                from: None,
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}
