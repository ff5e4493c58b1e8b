//! A client of the node's REST API: the envelope, its errors, and nothing of what is in it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::PREFIX;

/// A deploy's start-up check is the longest that an answer takes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No answer came.
    #[error(
        "cannot reach the node at {url}: {reason}. Start one with `atoll serve`, \
         or correct ATOLL_API_URL or the context in use"
    )]
    Unreachable {
        /// The API's address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The node said no.
    #[error("{}", join(.errors, *.status))]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Why.
        errors: Vec<ApiMessage>,
    },
    /// The answer makes no sense.
    #[error("the answer of {url} is not understood ({reason}): is it the API of a node, \
         whose address ends in {prefix}?", prefix = PREFIX)]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ApiError {
    /// The first error's code.
    pub(crate) fn code(&self) -> Option<i64> {
        match self {
            Self::Refused { errors, .. } => errors.first().map(|e| e.code),
            _ => None,
        }
    }
}

/// One error of an envelope.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiMessage {
    /// What program and manual know it by.
    pub code: i64,
    /// What happened.
    pub message: String,
}

fn join(errors: &[ApiMessage], status: StatusCode) -> String {
    if errors.is_empty() {
        return format!("the node answered {status} without saying why: look into its log");
    }
    let line = |e: &ApiMessage| {
        let advice = match e.code {
            10000 | 9109 => ": set ATOLL_API_TOKEN to a token of the account",
            _ => "",
        };
        format!("{}{advice} (code {})", e.message, e.code)
    };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
struct Envelope {
    success: bool,
    #[serde(default)]
    errors: Vec<ApiMessage>,
    #[serde(default)]
    result: Value,
    result_info: Option<ResultInfo>,
}

/// How to go on with a list.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ResultInfo {
    pub(crate) cursor: Option<String>,
}

/// What a request carries.
pub(crate) enum Body {
    Empty,
    Json(Value),
    Raw { content_type: String, bytes: Bytes },
}

/// Calls one node with one token.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    token: String,
}

impl Client {
    /// A client of the API at a base address such as `http://127.0.0.1:8787/client/v4`; an address
    /// without a path means that path.
    pub(crate) fn new(base: &str, token: &str) -> Self {
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config())
            .https_or_http()
            .enable_http1()
            .build();
        let http = HyperClient::builder(TokioExecutor::new()).build(https);
        Self { http, base: with_path(base), token: token.to_owned() }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, Body::Empty).await
    }

    /// A page of a list, and how to go on.
    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, ResultInfo), ApiError> {
        let envelope = self.envelope(Method::GET, path, Body::Empty).await?;
        let info = envelope.result_info.unwrap_or_default();
        Ok((self.typed(path, envelope.result)?, info))
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<T, ApiError> {
        let envelope = self.envelope(method, path, body).await?;
        self.typed(path, envelope.result)
    }

    /// A call whose answer is bytes rather than an envelope, unless it fails.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        let (status, bytes) = self.send(Method::GET, path, Body::Empty).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        let errors = serde_json::from_slice::<Envelope>(&bytes).map(|e| e.errors);
        Err(ApiError::Refused { status, errors: errors.unwrap_or_default() })
    }

    fn typed<T: DeserializeOwned>(&self, path: &str, result: Value) -> Result<T, ApiError> {
        serde_json::from_value(result).map_err(|e| self.malformed(path, e.to_string()))
    }

    fn malformed(&self, path: &str, reason: String) -> ApiError {
        ApiError::Malformed { url: format!("{}{path}", self.base), reason }
    }

    async fn envelope(&self, method: Method, path: &str, body: Body) -> Result<Envelope, ApiError> {
        let (status, bytes) = self.send(method, path, body).await?;
        let envelope: Envelope = serde_json::from_slice(&bytes)
            .map_err(|e| self.malformed(path, format!("status {status}, {e}")))?;
        match envelope.success {
            true => Ok(envelope),
            false => Err(ApiError::Refused { status, errors: envelope.errors }),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let unreachable = |reason: String| ApiError::Unreachable { url: self.base.clone(), reason };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::USER_AGENT, concat!("atoll/", env!("CARGO_PKG_VERSION")));
        let bytes = match body {
            Body::Empty => Bytes::new(),
            Body::Json(value) => {
                let json = HeaderValue::from_static("application/json");
                request = request.header(header::CONTENT_TYPE, json);
                value.to_string().into()
            }
            Body::Raw { content_type, bytes } => {
                request = request.header(header::CONTENT_TYPE, content_type);
                bytes
            }
        };
        let request =
            request.body(Full::new(bytes)).map_err(|e| unreachable(format!("bad address: {e}")))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|e| unreachable(cause(&e)))?;
            let status = response.status();
            let body = response.into_body().collect().await;
            Ok((status, body.map_err(|e| unreachable(cause(&e)))?.to_bytes()))
        };
        let timeout = || unreachable(format!("no answer within {ANSWER_WAIT_MAX:?}"));
        tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await.map_err(|_| timeout())?
    }
}

/// The base address, with the API's own path when it has none.
fn with_path(base: &str) -> String {
    let base = base.trim_end_matches('/');
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    match authority.contains('/') {
        true => base.to_owned(),
        false => format!("{base}{PREFIX}"),
    }
}

/// TLS with the system's roots.
pub(crate) fn tls_config() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The innermost cause: the outer ones only say that a request failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// One segment of a path, as `encodeURIComponent` writes it.
pub(crate) fn segment(text: &str) -> String {
    const KEPT: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'!')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    percent_encoding::utf8_percent_encode(text, &KEPT).to_string()
}

/// The items of a list in an answer; none where there is no list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_means_the_api() {
        for (base, expected) in [
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787/client/v4"),
            ("http://127.0.0.1:8787/", "http://127.0.0.1:8787/client/v4"),
            ("https://node.example/client/v4/", "https://node.example/client/v4"),
            ("https://proxy.example/atoll/client/v4", "https://proxy.example/atoll/client/v4"),
        ] {
            assert_eq!(Client::new(base, "t").base(), expected);
        }
    }
}
