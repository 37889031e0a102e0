//! Somebody who signed in: questions to the API server with a token, and nothing else.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use twinshore_crds::ReplicatedVolume;

use super::Change;

/// Who changes resources in the name of a person.
const MANAGER: &str = "twinshore-console";
/// Longer is no token: those of service accounts have about a thousand characters, others some thousands.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Volumes that are shown at once.
const VOLUMES_MAX: u32 = 1000;

/// Why a question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody signed in.
    #[error("sign in first: there is no token")]
    NoToken,
    /// The API server refuses.
    #[error("{message}")]
    Refused {
        /// With this status.
        code: StatusCode,
        /// In these words.
        message: String,
    },
    /// It does not answer.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_GATEWAY),
                message: status.message.clone(),
            },
            other => Self::Unreachable(crate::error::with_causes(&other)),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Refused { code, .. } => *code,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
        };
        (code, self.to_string()).into_response()
    }
}

/// The same API server without anybody's credentials.
pub fn anonymous(mut config: Config) -> Config {
    config.auth_info = AuthInfo::default();
    config
}

/// Somebody with a token.
pub struct User {
    client: Client,
}

impl User {
    /// Who asks.
    pub fn of(anonymous: &Config, headers: &HeaderMap) -> Result<Self, Refusal> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim)
            .filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
            .ok_or(Refusal::NoToken)?;
        let mut config = anonymous.clone();
        config.auth_info.token = Some(token.to_owned().into());
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    /// What the API server calls the person.
    pub async fn name(&self) -> Result<String, Refusal> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await?;
        let name = review
            .status
            .and_then(|status| status.user_info)
            .and_then(|user| user.username);
        Ok(name.unwrap_or_default())
    }

    /// Every volume that the person may list: of the whole cluster, else of the namespaces that have any.
    pub async fn volumes(&self, namespaces: &[String]) -> Result<Vec<ReplicatedVolume>, Refusal> {
        let page = ListParams::default().limit(VOLUMES_MAX);
        let everywhere: Api<ReplicatedVolume> = Api::all(self.client.clone());
        let refusal = match everywhere.list(&page).await {
            Ok(list) => return Ok(list.items),
            Err(kube::Error::Api(status)) if status.is_forbidden() => Refusal::from(kube::Error::Api(status)),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        let mut allowed = false;
        for namespace in namespaces {
            let there: Api<ReplicatedVolume> = Api::namespaced(self.client.clone(), namespace);
            match there.list(&page).await {
                Ok(list) => {
                    allowed = true;
                    found.extend(list.items);
                }
                Err(kube::Error::Api(status)) if status.is_forbidden() => {}
                Err(error) => return Err(error.into()),
            }
        }
        if allowed { Ok(found) } else { Err(refusal) }
    }

    /// A volume.
    pub async fn volume(&self, namespace: &str, name: &str) -> Result<ReplicatedVolume, Refusal> {
        let volumes: Api<ReplicatedVolume> = Api::namespaced(self.client.clone(), namespace);
        Ok(volumes.get(name).await?)
    }

    /// A volume after a change.
    pub async fn change(
        &self,
        namespace: &str,
        name: &str,
        change: &Change,
    ) -> Result<ReplicatedVolume, Refusal> {
        let volumes: Api<ReplicatedVolume> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        Ok(volumes.patch(name, &parameters, &Patch::Merge(change)).await?)
    }
}
