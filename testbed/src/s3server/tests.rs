#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_s3::primitives::ByteStream;
use tokio::time::Instant;

use super::*;

fn client(server: &S3Server, keys: &Keys) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{}", server.address()))
        .credentials_provider(Credentials::new(
            &keys.access_key,
            &keys.secret_key,
            None,
            None,
            "test",
        ))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

async fn put(client: &aws_sdk_s3::Client, key: &str, body: &'static [u8]) -> bool {
    client
        .put_object()
        .bucket("volume")
        .key(key)
        .body(ByteStream::from_static(body))
        .send()
        .await
        .is_ok()
}

async fn get(client: &aws_sdk_s3::Client, key: &str) -> Option<Vec<u8>> {
    let answer = client.get_object().bucket("volume").key(key).send().await.ok()?;
    Some(answer.body.collect().await.ok()?.to_vec())
}

async fn server(directory: &Path) -> S3Server {
    let options = S3ServerOptions {
        engine: Engine::InProcess,
        log_directory: directory.to_owned(),
        region: "east".to_owned(),
        directory: directory.to_owned(),
        bucket: "volume".to_owned(),
        keys: Keys::generate("east"),
    };
    S3Server::new(options).await.unwrap()
}

#[tokio::test]
async fn an_object_lies_in_the_directory_under_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).await;
    let client = client(&server, server.keys());
    assert!(put(&client, "objects/ab/one", b"content").await);
    assert_eq!(get(&client, "objects/ab/one").await.unwrap(), b"content");
    assert_eq!(
        std::fs::read(server.bucket_directory().join("objects/ab/one")).unwrap(),
        b"content"
    );
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn keys_of_another_region_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).await;
    assert!(!put(&client(&server, &Keys::generate("east")), "one", b"content").await);
    let wrong_secret = Keys {
        secret_key: "wrong".to_owned(),
        ..server.keys().clone()
    };
    assert!(!put(&client(&server, &wrong_secret), "one", b"content").await);
}

#[tokio::test]
async fn a_stopped_server_refuses_and_holds_everything_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = server(directory.path()).await;
    let client = client(&server, server.keys());
    assert!(put(&client, "one", b"before").await);
    let address = server.address();
    server.stop().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!put(&client, "two", b"while stopped").await);
    server.start().await.unwrap();
    assert_eq!(server.address(), address);
    assert_eq!(get(&client, "one").await.unwrap(), b"before");
    assert!(put(&client, "two", b"after").await);
}

#[tokio::test]
async fn latency_is_added_to_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path()).await;
    let client = client(&server, server.keys());
    server.set_latency(Duration::from_millis(120));
    let started = Instant::now();
    assert!(put(&client, "one", b"content").await);
    assert!(started.elapsed() >= Duration::from_millis(120));
}
