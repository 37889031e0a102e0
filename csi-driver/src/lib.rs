//! The CSI driver: what Kubernetes asks to make claims of volumes, and to mount them in pods.
//!
//! | module | what it is |
//! |---|---|
//! | `controller` | makes, copies, enlarges and removes claims: questions to the metadata service |
//! | `node` | mounts volumes on a node, with privileges |
//! | `mounter` | runs the processes of the mounts, without |
//! | `identity`, `registration` | who this is |
//! | `service` | the metadata services of volumes |
//! | `attributes`, `capability`, `volume_key` | what comes from Kubernetes, typed |
//! | `error` | which gRPC code stands for what |
//! | `endpoint`, `http`, `run`, `limited`, `locks` | sockets, health, life, system calls that may hang, one call at a time |

pub mod arguments;
mod attributes;
mod capability;
pub mod controller;
mod endpoint;
mod error;
mod http;
mod identity;
mod limited;
mod locks;
pub mod mounter;
pub mod node;
pub mod run;
mod service;
mod volume_key;
