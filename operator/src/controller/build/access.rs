//! Who may read which Secret: a Role for just one name, for the service account of the CSI plugin that needs it.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use twinshore_crds::names::CLIENT_COMPONENT;

use super::super::validate::Validated;
use super::{Resources, owned};
use crate::arguments::Account;
use crate::context::Settings;

/// Adds the Roles and their bindings.
pub fn add(validated: &Validated, settings: &Settings, resources: &mut Resources) {
    if let Some(account) = &settings.node_account {
        allow(validated, validated.names.client(), account, resources);
    }
    if let Some(account) = &settings.controller_account {
        allow(validated, validated.names.controller(), account, resources);
    }
}

fn allow(validated: &Validated, secret: String, account: &Account, resources: &mut Resources) {
    resources.roles.push(Role {
        metadata: owned(validated, secret.clone(), CLIENT_COMPONENT),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["secrets".to_owned()]),
            resource_names: Some(vec![secret.clone()]),
            verbs: ["get", "list", "watch"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }]),
    });
    resources.role_bindings.push(RoleBinding {
        metadata: owned(validated, secret.clone(), CLIENT_COMPONENT),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: secret,
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.name.clone(),
            namespace: Some(account.namespace.clone()),
            ..Subject::default()
        }]),
    });
}
