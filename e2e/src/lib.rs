//! Two real Kubernetes clusters, `east` and `west`, on one machine, and the scenarios that run on them.
//!
//! Nodes are namespaces of this machine; API servers, kubelets, containerd, DNS and S3 servers are the real programs. A line with a round-trip time, which can be
//! cut, is all that connects the regions. `docs/lab.md` is for whoever uses it.
//!
//! | module | what it does |
//! |---|---|
//! | [`address`] | names and addresses, computed |
//! | [`place`] | where things are |
//! | [`lab`] | up, down, status |
//! | [`node`] | a node from inside and outside |
//! | [`network`], [`wan`] | networks of the regions, and the line between them |
//! | [`s3`] | each region's S3 server |
//! | [`image`] | images without a container engine |
//! | [`certificates`], [`kubeconfig`] | trust |
//! | [`cgroups`], [`process`] | what the kernel keeps for the lab |
//! | [`kubectl`] | a cluster, for scenarios |
//! | [`scenarios`] | what is shown |
//! | [`command`], [`patience`], [`failure`] | running programs, waiting, telling why not |

pub mod address;
pub mod certificates;
pub mod cgroups;
pub mod command;
pub mod failure;
mod hexadecimal;
pub mod image;
pub mod kubeconfig;
pub mod kubectl;
pub mod lab;
pub mod network;
pub mod node;
pub mod patience;
pub mod place;
pub mod process;
pub mod s3;
pub mod scenarios;
pub mod wan;
