//! The shape of every answer: Cloudflare's v4 envelope, and the faults that it reports.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::registry::{Missing, RegistryError, Taken};

/// Error codes that clients act upon. Those below 20000 are Cloudflare's, the rest our own.
pub(super) mod code {
    pub(crate) const AUTHENTICATION: u32 = 10_000;
    pub(crate) const INTERNAL: u32 = 10_001;
    pub(crate) const WORKER_NOT_FOUND: u32 = 10_007;
    pub(crate) const KEY_NOT_FOUND: u32 = 10_009;
    pub(crate) const NAMESPACE_NOT_FOUND: u32 = 10_013;
    pub(crate) const TITLE_TAKEN: u32 = 10_014;
    pub(crate) const ROUTE_TAKEN: u32 = 10_020;
    pub(crate) const VALIDATION: u32 = 10_021;
    pub(crate) const SCRIPT_TOO_LARGE: u32 = 10_027;
    pub(crate) const SUBDOMAIN_TAKEN: u32 = 10_031;
    pub(crate) const TOO_MANY: u32 = 10_037;
    pub(crate) const INHERIT: u32 = 10_057;
    pub(crate) const LATEST_NOT_DEPLOYED: u32 = 10_215;
    pub(crate) const FORBIDDEN: u32 = 9_109;
    pub(crate) const NO_SUCH_ENDPOINT: u32 = 7_003;
    pub(crate) const BODY_TOO_LARGE: u32 = 20_413;
    pub(crate) const BODY_TOO_SLOW: u32 = 20_408;
    pub(crate) const BUSY: u32 = 20_429;
    pub(crate) const UNAVAILABLE: u32 = 20_503;
    pub(crate) const MALFORMED: u32 = 20_400;
    pub(crate) const NOT_FOUND: u32 = 20_404;
}

/// What every handler returns.
pub(super) type Answer = Result<Envelope, ApiError>;

/// A successful answer.
#[derive(Debug)]
pub(super) struct Envelope {
    result: Value,
    result_info: Option<Value>,
}

impl Envelope {
    pub(super) fn new(result: impl Serialize) -> Result<Self, ApiError> {
        let result = serde_json::to_value(result).map_err(ApiError::internal)?;
        Ok(Self { result, result_info: None })
    }

    pub(super) fn with_info(self, info: Value) -> Self {
        Self { result_info: Some(info), ..self }
    }

    /// A list that fits on one page.
    pub(super) fn list(items: Vec<Value>) -> Result<Self, ApiError> {
        let count = items.len();
        let info = json!({
            "page": 1, "per_page": count, "count": count, "total_count": count, "total_pages": 1,
        });
        Ok(Self::new(items)?.with_info(info))
    }
}

impl IntoResponse for Envelope {
    fn into_response(self) -> Response {
        let mut body =
            json!({ "success": true, "errors": [], "messages": [], "result": self.result });
        if let Some(info) = self.result_info {
            body["result_info"] = info;
        }
        Json(body).into_response()
    }
}

/// One entry of `errors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    pub(super) code: u32,
    pub(super) message: String,
}

/// A refused or failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) faults: Vec<Fault>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self { status, faults: vec![Fault { code, message: message.into() }] }
    }

    /// The request can never succeed as it is.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::VALIDATION, message)
    }

    /// The request cannot be read.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::MALFORMED, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code::NOT_FOUND, message)
    }

    /// The node failed: the reason goes to the log, not to the client.
    pub(super) fn internal(reason: impl std::fmt::Display) -> Self {
        tracing::error!(%reason, "an API request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::INTERNAL,
            "the node failed to do this: its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body =
            json!({ "success": false, "errors": self.faults, "messages": [], "result": null });
        (self.status, Json(body)).into_response()
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let (status, code) = match &error {
            RegistryError::NotFound { what } => (StatusCode::NOT_FOUND, missing_code(what)),
            RegistryError::Taken { what } => (
                StatusCode::CONFLICT,
                match what {
                    Taken::Subdomain(_) => code::SUBDOMAIN_TAKEN,
                    Taken::NamespaceTitle(_) => code::TITLE_TAKEN,
                    Taken::Route(_) | Taken::Host(_) => code::ROUTE_TAKEN,
                },
            ),
            RegistryError::Invalid(_) => (StatusCode::BAD_REQUEST, code::VALIDATION),
            RegistryError::TooMany { .. } => (StatusCode::FORBIDDEN, code::TOO_MANY),
            RegistryError::LatestNotDeployed => (StatusCode::CONFLICT, code::LATEST_NOT_DEPLOYED),
            RegistryError::Unavailable(_)
            | RegistryError::OutcomeUnknown(_)
            | RegistryError::Contended => {
                tracing::warn!(reason = %error, "the registry was not changed");
                (StatusCode::SERVICE_UNAVAILABLE, code::UNAVAILABLE)
            }
            _ => return Self::internal(error),
        };
        Self::new(status, code, error.to_string())
    }
}

fn missing_code(what: &Missing) -> u32 {
    match what {
        Missing::Worker(_) => code::WORKER_NOT_FOUND,
        Missing::Namespace(_) => code::NAMESPACE_NOT_FOUND,
        _ => code::NOT_FOUND,
    }
}

impl From<atoll_kv::KvError> for ApiError {
    fn from(error: atoll_kv::KvError) -> Self {
        let status =
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(reason = %error, "a KV request of the API failed");
        }
        Self::new(status, error.api_code(), error.public_message())
    }
}
