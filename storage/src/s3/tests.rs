#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server;

use server::{ACCESS_KEY, SECRET_KEY, Script, Server, serve};

use super::*;
use crate::contract::keeps_the_contract;

struct Store {
    server: Server,
    _directory: tempfile::TempDir,
}

type Expected = fn(&BucketError) -> bool;

/// A server with an empty bucket `east`.
async fn store() -> Store {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("east")).unwrap();
    Store {
        server: serve(directory.path()).await,
        _directory: directory,
    }
}

impl Store {
    async fn open(&self, path: &str, credentials: &Credentials) -> Result<S3Bucket, BucketError> {
        let location = format!("{}/{path}", self.server.address).parse().unwrap();
        let BucketLocation::S3(location) = location else {
            panic!("{location}")
        };
        S3Bucket::open(&location, credentials, &OpenOptions::default()).await
    }

    async fn bucket(&self, path: &str) -> S3Bucket {
        self.open(path, &Credentials::new(ACCESS_KEY, SECRET_KEY))
            .await
            .unwrap()
    }

    fn script(&self, script: &[Script]) {
        self.server.observed.lock().unwrap().script = script.to_vec();
    }

    fn requests(&self) -> usize {
        self.server.observed.lock().unwrap().requests.len()
    }
}

#[tokio::test]
async fn an_s3_bucket_keeps_the_contract() {
    let store = store().await;
    keeps_the_contract(&store.bucket("east").await).await.unwrap();
}

#[tokio::test]
async fn an_s3_bucket_with_a_prefix_keeps_the_contract_and_stays_within_it() {
    let store = store().await;
    let whole = store.bucket("east").await;
    whole.put("outside", Bytes::from_static(b"x")).await.unwrap();
    keeps_the_contract(&store.bucket("east/inner/place").await)
        .await
        .unwrap();
    store
        .bucket("east/inner/place")
        .await
        .put("k", Bytes::from_static(b"y"))
        .await
        .unwrap();
    let keys: Vec<String> = whole
        .list("", None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|object| object.key)
        .collect();
    assert_eq!(keys, ["inner/place/k", "outside"]);
}

#[tokio::test]
async fn a_put_carries_the_checksum_and_no_signature_of_its_body_and_is_one_request() {
    let store = store().await;
    let body = Bytes::from(vec![7; 100_000]);
    let checksum = crc32c::crc32c(&body);
    store
        .bucket("east")
        .await
        .put_with_checksum("k", body, checksum)
        .await
        .unwrap();
    let observed = store.server.observed.lock().unwrap();
    let [(method, _, headers)] = &observed.requests[..] else {
        panic!("{}", observed.requests.len())
    };
    assert_eq!(method, "PUT");
    assert_eq!(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    assert_eq!(headers["x-amz-checksum-crc32c"], base64(checksum));
    assert_eq!(headers["content-length"], "100000");
    assert!(!headers.contains_key("x-amz-trailer"));
}

#[test]
fn a_checksum_is_written_as_its_bytes_in_base64() {
    // Of RFC 4648's examples: "foob" is Zm9vYg==.
    assert_eq!(base64(u32::from_be_bytes(*b"foob")), "Zm9vYg==");
    assert_eq!(base64(0), "AAAAAA==");
}

#[tokio::test]
async fn a_broken_connection_and_an_overloaded_store_are_tried_again() {
    let store = store().await;
    let bucket = store.bucket("east").await;
    store.script(&[
        Script::Close,
        Script::Answer(503, vec![], "<Error><Code>SlowDown</Code></Error>"),
    ]);
    bucket.put("k", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(bucket.retries(), 2);
    store.script(&[Script::LoseReply]);
    bucket.put("k", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(bucket.get("k", None).await.unwrap(), "x");
}

#[tokio::test]
async fn attempts_have_an_end() {
    let store = store().await;
    let bucket = store.bucket("east").await;
    store.script(&vec![Script::Answer(500, vec![], ""); 10]);
    let error = bucket.get("k", None).await.unwrap_err();
    assert!(matches!(error, BucketError::Unavailable { .. }), "{error}");
    assert_eq!(store.requests(), 3);
}

/// The answer of a store that checks what arrives. The server of these tests does not; the answers are scripted.
#[tokio::test]
async fn a_body_that_was_damaged_on_its_way_is_sent_again() {
    let store = store().await;
    let bucket = store.bucket("east").await;
    let refused = Script::Answer(
        400,
        vec![],
        "<Error><Code>BadDigest</Code><Message>crc32c</Message></Error>",
    );
    store.script(std::slice::from_ref(&refused));
    bucket.put("k", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        (store.requests(), bucket.get("k", None).await.unwrap()),
        (2, Bytes::from_static(b"x"))
    );
    store.script(&vec![refused; 3]);
    let error = bucket.put("other", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(
        matches!(&error, BucketError::Unavailable { what } if what.contains("BadDigest")),
        "{error}"
    );
    assert!(matches!(
        bucket.get("other", None).await,
        Err(BucketError::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_missing_bucket_is_named_with_what_to_do() {
    let store = store().await;
    let bucket = store.bucket("west").await;
    let names_it = |error: BucketError| {
        let text = error.to_string();
        assert!(
            text.contains("no bucket \"west\"") && text.contains("create it"),
            "{text}"
        );
        assert!(error.needs_a_person());
    };
    names_it(bucket.list("", None, 1).await.unwrap_err());
    // The server of these tests creates a bucket when something is stored in it; others answer this.
    store.script(&[Script::Answer(
        404,
        vec![],
        "<Error><Code>NoSuchBucket</Code></Error>",
    )]);
    names_it(bucket.put("k", Bytes::from_static(b"x")).await.unwrap_err());
}

#[tokio::test]
async fn wrong_keys_are_denied_with_what_to_correct() {
    let store = store().await;
    let wrong_secret = store
        .open("east", &Credentials::new(ACCESS_KEY, "wrong"))
        .await
        .unwrap();
    let error = wrong_secret.put("k", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(
        matches!(&error, BucketError::Denied { what } if what.contains("secret key")),
        "{error}"
    );
    let wrong_access = store
        .open("east", &Credentials::new("NOBODY", SECRET_KEY))
        .await
        .unwrap();
    let error = wrong_access.put("k", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(&error, BucketError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains(SECRET_KEY), "{error}");
    let half = Credentials {
        access_key: Some("A".to_owned()),
        ..Credentials::default()
    };
    assert!(matches!(
        store.open("east", &half).await,
        Err(BucketError::Invalid { .. })
    ));
}

#[tokio::test]
async fn a_bucket_in_another_region_says_which_one() {
    let store = store().await;
    let bucket = store.bucket("east").await;
    let redirect = "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>";
    store.script(&[Script::Answer(
        301,
        vec![("x-amz-bucket-region", "eu-west-1")],
        redirect,
    )]);
    let error = bucket.get("k", None).await.unwrap_err();
    assert!(
        matches!(&error, BucketError::Invalid { what } if what.contains("eu-west-1")),
        "{error}"
    );
}

#[tokio::test]
async fn errors_are_told_apart_by_code_and_by_status() {
    let store = store().await;
    let bucket = store.bucket("east").await;
    let table: [(u16, &str, Expected); 7] = [
        (403, "<Error><Code>AccessDenied</Code></Error>", |e| {
            matches!(e, BucketError::Denied { .. })
        }),
        (403, "", |e| matches!(e, BucketError::Denied { .. })),
        (400, "<Error><Code>ExpiredToken</Code></Error>", |e| {
            matches!(e, BucketError::Denied { .. })
        }),
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", |e| {
            matches!(e, BucketError::Invalid { .. })
        }),
        (404, "<Error><Code>NoSuchKey</Code></Error>", |e| {
            matches!(e, BucketError::NotFound { .. })
        }),
        (404, "", |e| matches!(e, BucketError::NotFound { .. })),
        (400, "<Error><Code>MalformedXML</Code></Error>", |e| {
            matches!(e, BucketError::Invalid { .. })
        }),
    ];
    for (status, body, expected) in table {
        store.script(&[Script::Answer(status, vec![], body)]);
        let error = bucket.get("k", None).await.unwrap_err();
        assert!(expected(&error), "{status} {body}: {error:?}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unavailable() {
    let location = "http://127.0.0.1:1/east".parse().unwrap();
    let BucketLocation::S3(location) = location else {
        panic!("{location}")
    };
    let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY);
    let bucket = S3Bucket::open(&location, &credentials, &OpenOptions::default())
        .await
        .unwrap();
    assert!(matches!(
        bucket.get("k", None).await,
        Err(BucketError::Unavailable { .. })
    ));
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_named() {
    let store = store().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in ["/nonexistent/ca.pem".into(), file.path().to_owned()] {
        let location = format!("{}/east", store.server.address).parse().unwrap();
        let BucketLocation::S3(location) = location else {
            panic!("{location}")
        };
        let options = OpenOptions {
            certificate_authorities: Some(path.clone()),
            ..OpenOptions::default()
        };
        let opened = S3Bucket::open(&location, &Credentials::new("a", "b"), &options)
            .await
            .map(drop);
        let named =
            matches!(&opened, Err(BucketError::Invalid { what }) if what.contains(path.to_str().unwrap()));
        assert!(named, "{opened:?}");
    }
}
