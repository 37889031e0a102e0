//! The controller against a real API server and the controllers of Kubernetes. No pods run: there are no nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod operator;

use cluster::{cluster, eventually};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use operator::{Operator, Space, volume};
use serde_json::json;
use twinshore_crds::client_secret::PartSecret;
use twinshore_crds::names::{FINALIZER, VOLUME_LABEL};

#[tokio::test]
async fn the_primary_region_gets_a_metadata_service_and_workers_and_a_bundle() {
    let space = Space::new(cluster().await, "primary").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let set: StatefulSet = space.wait("documents-metadata").await;
    assert_eq!(set.owner_references()[0].name, "documents");
    for name in [
        "documents-metadata-tls",
        "documents-worker-tls",
        "documents-client",
        "documents-admin",
        "documents-join",
    ] {
        let secret: Secret = space.wait(name).await;
        assert_eq!(secret.labels()[VOLUME_LABEL], "documents");
    }
    let _: PersistentVolumeClaim = space.wait("data-documents-metadata-0").await;
    let _: Service = space.wait("documents-metadata").await;
    let _: Deployment = space.wait("documents-worker").await;
    let authority: Secret = space.wait("documents-ca").await;
    assert_eq!(authority.immutable, Some(true));
    // The pod that the StatefulSet makes passes admission.
    let _: Pod = space.wait("documents-metadata-0").await;
    let made = space.condition("documents", "MetadataReady", "False").await;
    assert_eq!(made.reason, "Starting");
    let found = space.volume("documents").await;
    assert!(found.finalizers().iter().any(|finalizer| finalizer == FINALIZER));
    let status = found.status.unwrap();
    assert_eq!(status.role, Some(twinshore_crds::Role::Primary));
    assert_eq!(status.volume_id, found.metadata.uid);
    assert_eq!(status.conditions.len(), 6, "{:?}", status.conditions);
    operator.stop().await;
}

#[tokio::test]
async fn the_target_region_waits_for_the_bundle_and_then_takes_part_in_the_same_trust() {
    let east = Space::new(cluster().await, "joined-east").await;
    let west = Space::new(cluster().await, "joined-west").await;
    for space in [&east, &west] {
        space.keys("keys-east", "AKE", "s1").await;
        space.keys("keys-west", "AKW", "s2").await;
    }
    let (operator_east, operator_west) = (Operator::start(&east, "east"), Operator::start(&west, "west"));
    east.apply(&volume("documents")).await;
    west.apply(&volume("documents")).await;
    let missing = west.condition("documents", "Ready", "False").await;
    assert_eq!(missing.reason, "JoinBundleMissing");
    assert!(
        missing.message.contains("kubectl --context east"),
        "{}",
        missing.message
    );
    let bundle: Secret = east.wait("documents-join").await;
    let manifest = &bundle.data.unwrap()["manifest"].0;
    let mut manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    // In two real clusters it is the same namespace.
    manifest["metadata"]["namespace"] = json!(west.namespace);
    west.create::<Secret>(&manifest).await;
    let client: Secret = west.wait("documents-client").await;
    let there = PartSecret::from_data(&client.data.unwrap()).unwrap();
    let client: Secret = east.wait("documents-client").await;
    let here = PartSecret::from_data(&client.data.unwrap()).unwrap();
    assert!(there.config.flip && !here.config.flip);
    assert_eq!(there.config.endpoint, "https://east.example.org:7700");
    assert_eq!(
        here.config.endpoint,
        format!("https://documents-metadata.{}.svc:7700", east.namespace)
    );
    assert_eq!(there.config.volume_id, here.config.volume_id);
    assert_eq!(there.authority.trim(), here.authority.trim());
    let _: Deployment = west.wait("documents-worker").await;
    assert_eq!(west.all::<StatefulSet>().await.len(), 0);
    // The bundle was made by a person here: nobody collects it.
    let _: Secret = west.wait("documents-join").await;
    operator_east.stop().await;
    operator_west.stop().await;
}

#[tokio::test]
async fn a_cluster_that_the_volume_does_not_name_only_says_so() {
    let space = Space::new(cluster().await, "elsewhere").await;
    let operator = Operator::start(&space, "north");
    space.apply(&volume("documents")).await;
    let condition = space.condition("documents", "Ready", "False").await;
    assert_eq!(condition.reason, "RegionNotNamed");
    assert!(
        condition.message.contains("this cluster is region north"),
        "{}",
        condition.message
    );
    assert!(space.volume("documents").await.finalizers().is_empty());
    assert_eq!(space.all::<Secret>().await.len(), 0);
    operator.stop().await;
}

#[tokio::test]
async fn a_missing_secret_is_told_and_its_arrival_is_noticed() {
    let space = Space::new(cluster().await, "missing").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let condition = space.condition("documents", "Ready", "False").await;
    assert_eq!(condition.reason, "SecretNotFound");
    assert!(condition.message.contains("keys-east"), "{}", condition.message);
    let events = || async {
        let events = space.all::<Event>().await;
        events
            .into_iter()
            .find(|event| event.reason.as_deref() == Some("SecretNotFound"))
    };
    let event = eventually("an event", events).await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("documents"));
    space.keys("keys-east", "AKE", "s1").await;
    let _: StatefulSet = space.wait("documents-metadata").await;
    operator.stop().await;
}

#[tokio::test]
async fn rotated_keys_reach_the_secrets_and_restart_nothing() {
    let space = Space::new(cluster().await, "rotation").await;
    space.keys("keys-east", "AKE", "old").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let client: Secret = space.wait("documents-client").await;
    let before = PartSecret::from_data(&client.data.unwrap()).unwrap();
    let set: StatefulSet = space.wait("documents-metadata").await;
    let pod: Pod = space.wait("documents-metadata-0").await;
    space.keys("keys-east", "AKE2", "new").await;
    for name in [
        "documents-client",
        "documents-worker-tls",
        "documents-metadata-tls",
    ] {
        let rotated = eventually("the new keys", || async {
            let secret: Secret = space.api().get(name).await.unwrap();
            let part = PartSecret::from_data(&secret.data.unwrap()).unwrap();
            (part.credentials.as_deref() == Some("access_key=AKE2\nsecret_key=new\n")).then_some(part)
        });
        let part = rotated.await;
        if name == "documents-client" {
            assert_eq!(part.certificate, before.certificate, "the certificate is not due");
        }
    }
    let after: StatefulSet = space.api().get("documents-metadata").await.unwrap();
    assert_eq!(after.metadata.generation, set.metadata.generation);
    // The kubelet looks at the Secrets of a pod that changes.
    let told = eventually("the kubelet to be told", || async {
        let secret: Secret = space.api().get("documents-metadata-tls").await.unwrap();
        let told: Pod = space.api().get("documents-metadata-0").await.unwrap();
        (told.annotations().get("twinshore.io/secret-version") == secret.metadata.resource_version.as_ref())
            .then_some(told)
    });
    assert_eq!(told.await.uid(), pod.uid(), "it is the same pod");
    operator.stop().await;
}

#[tokio::test]
async fn what_drifts_is_put_right_and_what_is_unwanted_is_collected() {
    let space = Space::new(cluster().await, "drift").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let _: Deployment = space.wait("documents-worker").await;
    space
        .merge::<Deployment>("documents-worker", &json!({"spec": {"replicas": 5}}))
        .await;
    let put_right = eventually("the number of workers", || async {
        let workers: Deployment = space.api().get("documents-worker").await.unwrap();
        (workers.spec.unwrap().replicas == Some(1)).then_some(())
    });
    put_right.await;
    let service: Service = space.wait("documents-metadata").await;
    space
        .api::<Service>()
        .delete("documents-metadata", &DeleteParams::default())
        .await
        .unwrap();
    let made_again = eventually("the Service", || async {
        let again: Service = space.api().get_opt("documents-metadata").await.unwrap()?;
        (again.uid() != service.uid()).then_some(())
    });
    made_again.await;
    let _: PodDisruptionBudget = space.wait("documents-worker").await;
    let mut without = volume("documents");
    without["spec"]["replication"] = json!({"workers": 0});
    space.apply(&without).await;
    space.wait_gone::<PodDisruptionBudget>("documents-worker").await;
    let _: PodDisruptionBudget = space.wait("documents-metadata").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_load_balancer_that_gets_its_address_completes_the_bundle() {
    let space = Space::new(cluster().await, "balancer").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    let mut balanced = volume("documents");
    balanced["spec"]["metadata"] = json!({"exposure": {"type": "LoadBalancer"}});
    space.apply(&balanced).await;
    let waiting = space.condition("documents", "Degraded", "True").await;
    assert_eq!(waiting.reason, "WaitingForAddress");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
    space
        .merge_status::<Service>("documents-metadata-exposed", &status)
        .await;
    let bundle: Secret = space.wait("documents-join").await;
    assert_eq!(bundle.data.unwrap()["endpoint"].0, b"https://192.0.2.7:7700");
    space.condition("documents", "Degraded", "False").await;
    operator.stop().await;
}

#[tokio::test]
async fn the_last_words_of_a_failing_pod_become_a_condition() {
    let space = Space::new(cluster().await, "failing").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let _: Pod = space.wait("documents-metadata-0").await;
    // As a kubelet would write it.
    let status = json!({"status": {"initContainerStatuses": [{
        "name": "create", "image": "i", "imageID": "", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "twinshore: the bucket documents-east does not exist\n"}},
    }]}});
    space.merge_status::<Pod>("documents-metadata-0", &status).await;
    let failing = eventually("the condition", || async {
        let volume = space.volume("documents").await;
        let conditions = volume.status?.conditions;
        conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready" && condition.reason == "PodsFailing")
    });
    let message = failing.await.message;
    assert!(
        message.contains("the bucket documents-east does not exist"),
        "{message}"
    );
    operator.stop().await;
}

#[tokio::test]
async fn at_rest_nothing_is_written() {
    let space = Space::new(cluster().await, "rest").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    for name in ["one", "two", "three"] {
        space.apply(&volume(name)).await;
    }
    for name in ["one", "two", "three"] {
        let _: StatefulSet = space.wait(&format!("{name}-metadata")).await;
        let _: Pod = space.wait(&format!("{name}-metadata-0")).await;
    }
    let cluster = cluster().await;
    let mut known = (0, std::time::Instant::now());
    // Three polls of the metadata service fit into the time that must pass without a write.
    let quiet = std::time::Duration::from_secs(35);
    let settled = || {
        let writes = cluster.writes(&space.namespace);
        if writes.len() != known.0 {
            known = (writes.len(), std::time::Instant::now());
        }
        let is_quiet = known.1.elapsed() >= quiet;
        async move { is_quiet.then_some(writes.len()) }
    };
    eventually("35 s without a write", settled).await;
    operator.stop().await;
}

#[tokio::test]
async fn a_retained_volume_made_again_is_the_same_volume() {
    let space = Space::new(cluster().await, "retain").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let _: StatefulSet = space.wait("documents-metadata").await;
    let volume_id = eventually("the identity", || async {
        space.volume("documents").await.status?.volume_id
    })
    .await;
    space.delete_volume("documents").await;
    space.wait_volume_gone("documents").await;
    // Collected by Kubernetes, as its owner is gone.
    space.wait_gone::<StatefulSet>("documents-metadata").await;
    space.wait_gone::<Secret>("documents-client").await;
    let _: Secret = space.wait("documents-ca").await;
    let _: PersistentVolumeClaim = space.wait("data-documents-metadata-0").await;
    space.apply(&volume("documents")).await;
    let again = eventually("the identity", || async {
        space.volume("documents").await.status?.volume_id
    })
    .await;
    assert_eq!(again, volume_id);
    assert_ne!(space.volume("documents").await.uid(), Some(volume_id));
    operator.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_in_use_stays() {
    let space = Space::new(cluster().await, "used").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    space.apply(&volume("documents")).await;
    let _: StatefulSet = space.wait("documents-metadata").await;
    let user = json!({
        "metadata": {"name": "used-by-a-claim"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "claimRef": {"namespace": space.namespace, "name": "work"},
            "csi": {
                "driver": "csi.twinshore.io",
                "volumeHandle": "h",
                "volumeAttributes": {"twinshore.io/volume": format!("{}/documents", space.namespace)},
            },
        },
    });
    let users: kube::Api<PersistentVolume> = kube::Api::all(space.client.clone());
    users
        .create(
            &kube::api::PostParams::default(),
            &serde_json::from_value(user).unwrap(),
        )
        .await
        .unwrap();
    space.delete_volume("documents").await;
    let degraded = eventually("the condition", || async {
        let conditions = space.volume("documents").await.status?.conditions;
        conditions
            .into_iter()
            .find(|condition| condition.reason == "StillInUse")
    });
    let message = degraded.await.message;
    assert!(
        message.contains("used-by-a-claim") && message.contains("/work"),
        "{message}"
    );
    let _: StatefulSet = space.wait("documents-metadata").await;
    users
        .delete("used-by-a-claim", &DeleteParams::default())
        .await
        .unwrap();
    space.wait_volume_gone("documents").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_deleted_with_its_data_empties_the_buckets_first() {
    let space = Space::new(cluster().await, "destroy").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    let mut doomed = volume("documents");
    doomed["spec"]["deletionPolicy"] = json!("Delete");
    space.apply(&doomed).await;
    let _: Pod = space.wait("documents-metadata-0").await;
    space.delete_volume("documents").await;
    let job_pod = || async {
        let pods = space.api::<Pod>().list(&ListParams::default()).await.unwrap();
        // A pod that no kubelet runs has to be taken away by hand.
        for pod in pods
            .items
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some())
        {
            let at_once = DeleteParams::default().grace_period(0);
            let _ = space.api::<Pod>().delete(&pod.name_any(), &at_once).await;
        }
        pods.items
            .into_iter()
            .find(|pod| pod.name_any().starts_with("documents-destroy-"))
    };
    let pod = eventually("the pod that empties the buckets", job_pod).await;
    assert_eq!(space.all::<StatefulSet>().await.len(), 0, "it is stopped before");
    let arguments = pod.spec.as_ref().unwrap().containers[0].args.clone().unwrap();
    assert!(arguments.starts_with(&["--log-json".to_owned(), "volume".to_owned(), "destroy".to_owned()]));
    let _: Secret = space.wait("documents-ca").await;
    let done = json!({"status": {"phase": "Succeeded"}});
    space.merge_status::<Pod>(&pod.name_any(), &done).await;
    space.wait_volume_gone("documents").await;
    space.wait_gone::<Secret>("documents-ca").await;
    space
        .wait_gone::<PersistentVolumeClaim>("data-documents-metadata-0")
        .await;
    operator.stop().await;
}

#[tokio::test]
async fn a_paused_volume_is_left_alone() {
    let space = Space::new(cluster().await, "paused").await;
    space.keys("keys-east", "AKE", "s1").await;
    space.keys("keys-west", "AKW", "s2").await;
    let operator = Operator::start(&space, "east");
    let mut paused = volume("documents");
    paused["spec"]["paused"] = json!(true);
    space.apply(&paused).await;
    let condition = space.condition("documents", "Degraded", "True").await;
    assert_eq!(condition.reason, "Paused");
    assert_eq!(space.all::<StatefulSet>().await.len(), 0);
    space.apply(&volume("documents")).await;
    let _: StatefulSet = space.wait("documents-metadata").await;
    operator.stop().await;
}
