//! The client of an S3 store: connections, credentials, region.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Builder, Credentials as SdkCredentials, ProvideCredentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use crate::bucket::BucketError;
use crate::location::{Credentials, OpenOptions, S3Location};

/// Stores close idle connections after 20 s or more.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// Connections kept idle, at most: as many as the pair has requests in flight.
const POOL_MAXIMUM: usize = 64;
/// A handshake over any distance takes less; a host that is gone does not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The region of stores that know none.
const ANY_REGION: &str = "us-east-1";

/// Makes a client.
pub(super) async fn build(
    location: &S3Location,
    credentials: &Credentials,
    options: &OpenOptions,
) -> Result<Client, BucketError> {
    let OpenOptions {
        region,
        path_style,
        certificate_authorities,
    } = options;
    let named = location.region.clone().or_else(|| region.clone());
    let (provider, region) = match static_credentials(credentials)? {
        Some(provider) => (provider, named),
        None => standard_chain(named).await?,
    };
    let mut tls = TlsContext::builder();
    if let Some(path) = certificate_authorities {
        let invalid = |why: &dyn std::fmt::Display| BucketError::Invalid {
            what: format!("the certificates in {} cannot be used: {why}", path.display()),
        };
        let pem = tokio::fs::read(path).await.map_err(|error| invalid(&error))?;
        if !pem
            .windows(BEGIN_CERTIFICATE.len())
            .any(|window| window == BEGIN_CERTIFICATE)
        {
            return Err(invalid(&"there is no PEM certificate in it"));
        }
        tls = tls.with_trust_store(
            TrustStore::empty()
                .with_native_roots(true)
                .with_pem_certificate(pem),
        );
    }
    let tls = tls.build().map_err(|error| BucketError::Invalid {
        what: format!("TLS cannot be set up: {error}"),
    })?;
    let http = aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAXIMUM)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https();
    let mut config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .credentials_provider(provider)
        .region(Region::new(region.unwrap_or_else(|| ANY_REGION.to_owned())))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build())
        // Every attempt has a limit by its size; on a slow link a stream may stall without being lost.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(path_style.unwrap_or(location.endpoint.is_some()));
    if let Some(endpoint) = &location.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

const BEGIN_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The keys that were given; `None` if there were none.
fn static_credentials(credentials: &Credentials) -> Result<Option<SharedCredentialsProvider>, BucketError> {
    let Credentials {
        access_key,
        secret_key,
        session_token,
    } = credentials;
    match (access_key, secret_key) {
        (Some(access), Some(secret)) => Ok(Some(SharedCredentialsProvider::new(SdkCredentials::new(
            access,
            secret,
            session_token.clone(),
            None,
            "twinshore",
        )))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(BucketError::Invalid {
            what: "an access key was given without its secret key".to_owned(),
        }),
        (None, Some(_)) => Err(BucketError::Invalid {
            what: "a secret key was given without its access key".to_owned(),
        }),
    }
}

/// Credentials, and a region if none is named, from where the AWS tools look for them.
async fn standard_chain(
    region: Option<String>,
) -> Result<(SharedCredentialsProvider, Option<String>), BucketError> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = &region {
        loader = loader.region(Region::new(region.clone()));
    }
    let found = loader.load().await;
    let denied = |why: &str| BucketError::Denied {
        what: format!(
            "no credentials for the bucket: give an access key and a secret key, or set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, a profile or a role ({why})"
        ),
    };
    let provider = found
        .credentials_provider()
        .ok_or_else(|| denied("there is no provider"))?;
    provider
        .provide_credentials()
        .await
        .map_err(|error| denied(&error.to_string()))?;
    Ok((
        provider,
        region.or_else(|| found.region().map(ToString::to_string)),
    ))
}
