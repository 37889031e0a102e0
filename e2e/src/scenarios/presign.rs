//! Addresses of objects that carry their own proof of who asks (AWS Signature Version 4 in the query), so that programs without keys, such as a
//! pod's `wget`, can make real requests.

use sha2::{Digest as _, Sha256};

use crate::hexadecimal;
use crate::s3::Keys;

/// The block of SHA-256, for HMAC (RFC 2104).
const BLOCK_BYTES: usize = 64;

/// What the address is for.
pub struct Request<'a> {
    /// `GET` or `PUT`.
    pub method: &'a str,
    /// `host:port`.
    pub host: &'a str,
    /// Bucket and key, beginning with a slash, of characters that need no escaping.
    pub path: &'a str,
    /// As the server knows its region.
    pub region: &'a str,
    /// As `YYYYMMDDTHHMMSSZ`.
    pub time: &'a str,
    /// For how long it is good.
    pub seconds: u32,
}

/// Path and query, to be sent to the host.
pub fn presign(request: &Request<'_>, keys: &Keys) -> String {
    let Request {
        method,
        host,
        path,
        region,
        time,
        seconds,
    } = request;
    let date = time.get(..8).unwrap_or(time);
    let scope = format!("{date}/{region}/s3/aws4_request");
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{}&X-Amz-Date={time}&X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
        keys.access_key,
        scope.replace('/', "%2F")
    );
    let canonical = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hexadecimal::text(&Sha256::digest(canonical))
    );
    let secret = format!("AWS4{}", keys.secret_key);
    let key = [date, region, "s3", "aws4_request"]
        .into_iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part));
    format!(
        "{path}?{query}&X-Amz-Signature={}",
        hexadecimal::text(&hmac(&key, &to_sign))
    )
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |with: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ with));
    let inner = padded(0x36).chain_update(message).finalize();
    padded(0x5c).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_comes_out() {
        let keys = Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let request = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            region: "us-east-1",
            time: "20130524T000000Z",
            seconds: 86400,
        };
        let address = presign(&request, &keys);
        assert!(
            address.ends_with(
                "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
            ),
            "{address}"
        );
    }
}
