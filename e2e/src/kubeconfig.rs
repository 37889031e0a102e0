//! What a client needs to find API servers and to show who it is. Certificates are named by path, so nothing secret is in it.

use std::fmt::Write as _;
use std::path::PathBuf;

/// A client of one cluster. The context is named as the cluster is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// Its API server.
    pub server: String,
    /// The certificate of its authority.
    pub authority: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The file. The first context is the current one.
pub fn text(identities: &[Identity]) -> String {
    let mut clusters = String::new();
    let mut users = String::new();
    let mut contexts = String::new();
    for Identity {
        cluster,
        server,
        authority,
        certificate,
        key,
    } in identities
    {
        // Writing to a string does not fail.
        let _ = writeln!(
            clusters,
            "- name: {cluster}\n  cluster:\n    server: {server}\n    certificate-authority: {}",
            authority.display()
        );
        let _ = writeln!(
            users,
            "- name: {cluster}\n  user:\n    client-certificate: {}\n    client-key: {}",
            certificate.display(),
            key.display()
        );
        let _ = writeln!(
            contexts,
            "- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {cluster}"
        );
    }
    let current = identities
        .first()
        .map_or("", |identity| identity.cluster.as_str());
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {current}\nclusters:\n{clusters}users:\n{users}contexts:\n{contexts}"
    )
}
