//! The HTTP client of an ACME conversation: over TLS alone, to the authority alone, and bounded in size and time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use atoll_router::{TlsError, parse_certificates};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};

use crate::config::AcmeConfig;
use crate::outbound::system_roots;

/// How long one exchange may take.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);
/// What an authority may answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Talks to the authority. Clones share it.
#[derive(Clone)]
pub(super) struct AuthorityClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    /// How long the authority has asked to be left alone, with its last refusal that did.
    asked_to_wait: Arc<Mutex<Option<Duration>>>,
}

impl AuthorityClient {
    /// A client that believes whom the configuration names, or whom the system trusts. Blocks on the disk.
    pub(super) fn new(config: &AcmeConfig) -> Result<Self, TlsError> {
        let roots = match &config.ca {
            None => system_roots(),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|error| TlsError::File {
                    what: "the authority's own root",
                    path: path.clone(),
                    reason: error.to_string(),
                })?;
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(parse_certificates(&pem, path)?);
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
        let connector = connector.https_only().enable_http1().enable_http2().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, asked_to_wait: Arc::default() })
    }

    /// How long the authority has asked to be left alone.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        *self.asked_to_wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let exchange = async {
            let response = self.client.request(request).await.map_err(other)?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?;
            Ok::<_, Error>((head, body.to_bytes()))
        };
        let answered = tokio::time::timeout(EXCHANGE_MAX, exchange).await;
        let (head, body) = answered.map_err(|_| Error::Str("an answer in time"))??;
        if matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let wait = retry_after(&head.headers, SystemTime::now());
            *self.asked_to_wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        }
        let is_problem =
            |kind: &http::HeaderValue| kind.as_bytes().starts_with(b"application/problem+json");
        let failed = head.status.is_client_error() || head.status.is_server_error();
        if failed && !head.headers.get(header::CONTENT_TYPE).is_some_and(is_problem) {
            return Err(Error::Other(format!("it answers with {}", head.status).into()));
        }
        Ok(BytesResponse::from(http::Response::from_parts(head, Full::new(body))))
    }
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().exchange(request))
    }
}

fn other(error: hyper_util::client::legacy::Error) -> Error {
    Error::Other(Box::new(error))
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    SystemTime::from(at).duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let check = |text: &str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(77));
        check("Sun, 06 Nov 1994 08:48:00 GMT", None);
        check("soon", None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
