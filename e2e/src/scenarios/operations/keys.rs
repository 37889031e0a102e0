//! Keys of both buckets, those of users that can be removed.

use std::time::Duration;

use crate::address::Node;
use crate::failure::{Failure, chain};
use crate::node::NodeHandle;
use crate::patience::{Look, wait_for};
use crate::s3::Keys;
use crate::scenarios::Context;
use crate::scenarios::deployment::{secret, secret_name};

/// For a Secret that changed to be in the files of everything that uses it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where the kubelet keeps what containers see: Secrets, and the directories that the mounter writes keys to.
const FILES: &str = "/var/lib/kubelet/pods/*/volumes/kubernetes.io~secret /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/secrets";

/// Makes a user of each server, east's first.
pub fn users(context: &Context, name: &str) -> Result<[Keys; 2], Failure> {
    let [east, west] = context.clusters();
    let name = |region| format!("{name}-{region}");
    Ok([
        east.s3.make_user(&context.place, &name(east.region))?,
        west.s3.make_user(&context.place, &name(west.region))?,
    ])
}

/// Each cluster has the keys of both buckets in Secrets of its own.
pub fn hand_out(context: &Context, keys: &[Keys; 2]) -> Result<(), Failure> {
    for cluster in context.clusters() {
        for (of, keys) in context.clusters().into_iter().zip(keys) {
            let secret = secret(&secret_name(of.region), keys);
            cluster.kubectl.apply(&secret.to_string())?;
        }
    }
    Ok(())
}

/// Waits until no process of any node is given these keys any more: what a person sees when he asks whether the old ones may be revoked.
pub fn are_gone(context: &Context, keys: &[Keys; 2]) -> Result<(), Failure> {
    for node in Node::all() {
        let handle = NodeHandle::of(&context.place, node);
        let script = format!(
            "grep -rlF -e {} -e {} {FILES} 2>/dev/null | head -n 3",
            keys[0].access_key, keys[1].access_key
        );
        wait_for(
            &format!("old keys to be gone from {node}"),
            PATIENCE,
            || match handle
                .run(["sh", "-c", &script])
                .and_then(|run| Ok(run.output()?))
            {
                Ok(said) => Look::at(said.is_empty(), said),
                Err(error) => Look::NotYet(chain(&error)),
            },
        )?;
    }
    Ok(())
}
