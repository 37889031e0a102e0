#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

async fn bucket() -> (tempfile::TempDir, DirectoryBucket) {
    let directory = tempfile::tempdir().unwrap();
    let bucket = DirectoryBucket::open(directory.path()).await.unwrap();
    (directory, bucket)
}

#[tokio::test]
async fn keys_that_would_leave_the_directory_are_refused() {
    let (directory, bucket) = bucket().await;
    fs::write(
        directory.path().parent().unwrap().join("twinshore-outside"),
        b"secret",
    )
    .unwrap();
    for key in [
        "../twinshore-outside",
        "a/../../twinshore-outside",
        "/etc/passwd",
        "",
        "a//b",
        "a/./b",
        "a/",
        "a\0b",
        ".twinshore-temporary/x",
    ] {
        let put = bucket.put(key, Bytes::from_static(b"x")).await;
        assert!(
            matches!(put, Err(BucketError::Invalid { .. })),
            "{key:?}: {put:?}"
        );
        assert!(
            matches!(bucket.get(key, None).await, Err(BucketError::Invalid { .. })),
            "{key:?}"
        );
        assert!(
            matches!(
                bucket.delete(&[key.to_owned()]).await,
                Err(BucketError::Invalid { .. })
            ),
            "{key:?}"
        );
    }
    fs::remove_file(directory.path().parent().unwrap().join("twinshore-outside")).unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error_that_says_so_and_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("not-mounted");
    let error = DirectoryBucket::open(&missing).await.unwrap_err();
    assert!(
        matches!(&error, BucketError::Invalid { what } if what.contains("does not exist")),
        "{error}"
    );
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_disk_that_goes_away_does_not_look_like_an_object_that_goes_away() {
    let (directory, bucket) = bucket().await;
    bucket.put("a/b", Bytes::from_static(b"x")).await.unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    assert!(matches!(
        bucket.get("a/b", None).await,
        Err(BucketError::Invalid { .. })
    ));
    assert!(matches!(
        bucket.put("a/b", Bytes::new()).await,
        Err(BucketError::Invalid { .. })
    ));
}

#[tokio::test]
async fn what_is_being_written_is_not_listed_and_old_remains_are_removed() {
    let (directory, bucket) = bucket().await;
    let temporary = directory.path().join(TEMPORARY);
    let (fresh, old) = (temporary.join("fresh"), temporary.join("old"));
    fs::write(&fresh, b"half").unwrap();
    let long_ago = SystemTime::now() - TEMPORARY_LIFE - Duration::from_mins(1);
    let file = File::create(&old).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(bucket.list("", None, 10).await.unwrap(), []);
    DirectoryBucket::open(directory.path()).await.unwrap();
    assert!(fresh.exists());
    assert!(!old.exists());
}

#[tokio::test]
async fn nothing_temporary_is_left_by_a_put() {
    let (directory, bucket) = bucket().await;
    bucket.put("a/b/c", Bytes::from_static(b"x")).await.unwrap();
    bucket.put("a/b/c", Bytes::from_static(b"y")).await.unwrap();
    // A directory is in the way.
    assert!(bucket.put("a/b", Bytes::from_static(b"z")).await.is_err());
    assert_eq!(fs::read_dir(directory.path().join(TEMPORARY)).unwrap().count(), 0);
}
