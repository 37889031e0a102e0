#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn parse(text: &str) -> BucketLocation {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_way_to_name_a_bucket_is_understood() {
    let table = [
        ("file:///data/east", "file:///data/east"),
        ("file:///data/./x/../east/", "file:///data/east"),
        ("http://127.0.0.1:9000/east", "http://127.0.0.1:9000/east"),
        ("http://Host.Example:80/east/a/b/", "http://host.example/east/a/b"),
        ("https://host:443/east", "https://host/east"),
        ("http://[::1]:9000/east", "http://[::1]:9000/east"),
        ("s3://east", "s3://east"),
        ("s3://east/a/b", "s3://east/a/b"),
        (
            "https://east.s3.eu-west-1.amazonaws.com/p",
            "https://s3.eu-west-1.amazonaws.com/east/p",
        ),
        (
            "https://s3.eu-west-1.amazonaws.com/east/p",
            "https://s3.eu-west-1.amazonaws.com/east/p",
        ),
        (
            "https://my.dotted.s3-eu-west-1.amazonaws.com",
            "https://s3.eu-west-1.amazonaws.com/my.dotted",
        ),
        ("https://east.s3.amazonaws.com", "s3://east"),
    ];
    for (text, expected) in table {
        let location = parse(text);
        assert_eq!(location.to_string(), expected, "{text}");
        assert_eq!(parse(&location.to_string()), location, "{text}");
    }
}

#[test]
fn what_is_no_location_is_refused_with_what_to_write() {
    for text in [
        "",
        "/data/east",
        "east",
        "file://relative",
        "ftp://host/east",
        "http://",
        "http://host",
        "http://host/",
        "http:///east",
        "http://host:99999/east",
        "http://host:0/east",
        "http://key:secret@host/east",
        "http://host/east?region=x",
        "s3://",
        "s3://Upper",
        "s3://ab",
        "http://host/east/../west",
        "http://host/east//x",
        "http://ho st/east",
    ] {
        let error = text.parse::<BucketLocation>().expect_err(text).to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_same_bucket_under_two_texts_is_recognised() {
    for (a, b) in [
        ("http://localhost:9000/east", "http://127.0.0.1:9000/east/"),
        ("http://127.0.0.1:9000/east", "http://127.0.0.1:9000/east/inner"),
        ("s3://east/p", "https://s3.eu-west-1.amazonaws.com/east/p"),
        ("file:///data/east", "file:///data/other/../east/"),
        ("file:///data/east", "file:///data/east/inner"),
    ] {
        assert!(
            parse(a).overlaps(&parse(b)) && parse(b).overlaps(&parse(a)),
            "{a} {b}"
        );
    }
    for (a, b) in [
        ("http://127.0.0.1:9000/east", "http://127.0.0.1:9000/east2"),
        ("http://127.0.0.1:9000/east", "http://127.0.0.1:9001/east"),
        (
            "http://127.0.0.1:9000/both/east",
            "http://127.0.0.1:9000/both/west",
        ),
        ("file:///data/east", "file:///data/eastern"),
    ] {
        assert!(
            !parse(a).overlaps(&parse(b)) && !parse(b).overlaps(&parse(a)),
            "{a} {b}"
        );
    }
}

#[test]
fn credentials_are_never_printed() {
    let mut credentials = Credentials::new("AKIDEXAMPLE", "hunter2");
    credentials.session_token = Some("hunter3".to_owned());
    let shown = format!("{credentials:?}");
    assert!(!shown.contains("AKID") && !shown.contains("hunter"), "{shown}");
}
