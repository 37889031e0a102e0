//! The chart in both clusters.

use std::path::Path;
use std::time::Duration;

use crate::command::Run;
use crate::failure::{Failure, at_once};
use crate::image::product;
use crate::scenarios::{Cluster, Context};

/// Where the chart goes, and its release's name.
pub const SYSTEM_NAMESPACE: &str = "twinshore-system";
pub const RELEASE: &str = "twinshore";

/// For Helm to have everything accepted and running.
const INSTALL_PATIENCE: Duration = Duration::from_mins(4);

/// Installs it in both clusters.
pub fn install_everywhere(context: &Context) -> Result<(), Failure> {
    context.step("the chart in both clusters", || {
        upgrade_everywhere(context, product::NAME, &[])
    })
}

/// Has it as it is wanted in both clusters: with an image, and with more values (`name=value`).
pub fn upgrade_everywhere(context: &Context, image: &str, values: &[&str]) -> Result<(), Failure> {
    at_once("install the chart", &context.clusters(), |cluster| {
        upgrade(context, cluster, image, values)
    })
}

/// Removes it from a cluster; the definition of the resource stays.
pub fn uninstall(context: &Context, cluster: &Cluster) -> Result<(), Failure> {
    helm(
        context,
        cluster,
        &["uninstall", RELEASE, "--ignore-not-found", "--wait"],
    )?
    .done()?;
    cluster.kubectl.in_namespace(SYSTEM_NAMESPACE).delete_namespace()
}

fn upgrade(context: &Context, cluster: &Cluster, image: &str, values: &[&str]) -> Result<(), Failure> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/twinshore");
    let chart = chart.display().to_string();
    let region = format!("region={}", cluster.region);
    let (name, tag) = image.split_once(':').unwrap_or((image, ""));
    let (registry, repository) = name.split_once('/').unwrap_or(("", name));
    let image = format!("image.registry={registry},image.repository={repository},image.tag={tag}");
    let mut arguments = vec![
        "upgrade",
        "--install",
        RELEASE,
        &chart,
        "--create-namespace",
        "--wait",
        "--timeout",
        "3m",
        "--set",
        &region,
        "--set",
        &image,
        "--set",
        "operator.replicas=1,csi.controller.replicas=1",
    ];
    for value in values {
        arguments.extend(["--set", value]);
    }
    Ok(helm(context, cluster, &arguments)?.done()?)
}

fn helm(context: &Context, cluster: &Cluster, arguments: &[&str]) -> Result<Run, Failure> {
    let kubeconfig = context.place.kubeconfig();
    let program = context.place.programs()?.join("helm");
    let mut all = vec![
        "--kube-context",
        cluster.region.name(),
        "--namespace",
        SYSTEM_NAMESPACE,
    ];
    all.extend(arguments);
    Ok(Run::new(program, all)
        .environment("KUBECONFIG", kubeconfig)
        .patience(INSTALL_PATIENCE))
}
