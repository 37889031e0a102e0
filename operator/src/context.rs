//! What every reconciliation works with.

use std::sync::Arc;

use kube::Client;
use kube::runtime::events::Recorder;

use crate::arguments::Account;
use crate::inventory::{Inventory, Memory};
use crate::metrics::Metrics;
use crate::monitor::Monitor;

/// Settings that are the same for all volumes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The region of this cluster.
    pub region: String,
    /// The image of all parts.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: String,
    /// Who may read `<volume>-client`.
    pub node_account: Option<Account>,
    /// Who may read `<volume>-controller`.
    pub controller_account: Option<Account>,
}

/// What every reconciliation works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Settings.
    pub settings: Settings,
    /// Everything of ours that is in the cluster, as the watches saw it last.
    pub inventory: Inventory,
    /// What was applied.
    pub memory: Memory,
    /// What the metadata services say.
    pub monitor: Monitor,
    /// For events.
    pub recorder: Recorder,
    /// For metrics.
    pub metrics: Arc<Metrics>,
}
