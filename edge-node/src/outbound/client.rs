//! The HTTP client itself: its limits, its TLS roots, and one hop of a fetch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRAILER};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use super::BoxError;
use super::connect::{Connector, Destination, Policy, PrivateAddresses};
use super::decode::{self, DecodeBody};
use super::error::OutboundError;
use super::system::SystemNetwork;
use super::upload::{Progress, Resendable, Upload};
use crate::hop_by_hop::remove_hop_by_hop;

/// A request's body.
pub type ReqBody = UnsyncBoxBody<Bytes, BoxError>;
/// A response's body.
pub type ResBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long an idle connection is kept for the next request to its host.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an HTTP/2 server with open streams is pinged.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// The limits of the client and the addresses it may reach.
#[derive(Clone, Debug)]
pub struct OutboundOptions {
    /// Networks that may be reached although they are not public.
    pub allow: Vec<IpNet>,
    /// What to do about all other addresses that are not public.
    pub allow_private: PrivateAddresses,
    /// Certificate authorities trusted besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The time for resolving a name.
    pub dns_timeout: Duration,
    /// The time for connecting, over all addresses of a name.
    pub connect_timeout: Duration,
    /// The time until the response's head has come, counted while the server neither takes the
    /// request's body nor waits for the worker to produce it. TLS handshakes count.
    pub response_timeout: Duration,
    /// The most bytes of a response's head.
    pub response_header_bytes_max: usize,
    /// The most idle connections kept for one host.
    pub pool_idle_per_host_max: usize,
}

impl Default for OutboundOptions {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            allow_private: PrivateAddresses::Refuse,
            extra_roots: Vec::new(),
            dns_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(100),
            response_header_bytes_max: 128 * 1024,
            pool_idle_per_host_max: 32,
        }
    }
}

/// The client. Cheap to clone within one thread.
///
/// Make one for each data-plane thread, on its runtime: pooled connections and name lookups are
/// tasks of the runtime that first used them, so a connection shared with a second
/// current-thread runtime would stall whenever the first is busy, and die with it.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpsConnector<Connector>, Upload>,
    /// For WebSockets: over HTTP/1.1, and no connection is used twice.
    pub(super) sockets: Client<HttpsConnector<Connector>, Empty<Bytes>>,
    pub(super) response_timeout: Duration,
    making: Making,
}

/// What clients are made of.
#[derive(Clone)]
struct Making {
    connector: Connector,
    tls: ClientConfig,
    header_bytes_max: usize,
    pool_idle_per_host_max: usize,
}

/// Why an attempt has no response.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: OutboundError,
    pub(crate) stage: Stage,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There was no connection: nothing of the request was sent.
    Connecting,
    /// Some of it may have been sent.
    Sending,
    /// The time for an answer is over.
    Waiting,
}

impl Outbound {
    /// Makes a client. It reads no file: what the system says was read before.
    pub fn new(options: OutboundOptions, system: &SystemNetwork) -> Self {
        let policy = Policy { allow: options.allow, private: options.allow_private };
        let connector =
            Connector::new(policy, system.resolver(), options.dns_timeout, options.connect_timeout);
        let making = Making {
            connector,
            tls: tls_config(system.roots(), options.extra_roots),
            header_bytes_max: options.response_header_bytes_max.max(8192),
            pool_idle_per_host_max: options.pool_idle_per_host_max,
        };
        Self::made_of(making, options.response_timeout)
    }

    /// A client with connections of its own, all of which go to one place, whatever the URL. The place's addresses
    /// are checked as those of a URL; TLS asks for the URL's host.
    pub(crate) fn to(&self, destination: Destination) -> Self {
        let connector = self.making.connector.to(destination);
        Self::made_of(Making { connector, ..self.making.clone() }, self.response_timeout)
    }

    fn made_of(making: Making, response_timeout: Duration) -> Self {
        let Making { connector, tls, header_bytes_max, pool_idle_per_host_max } = making.clone();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector.clone());
        let https_for_sockets = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(pool_idle_per_host_max)
            .http1_max_buf_size(header_bytes_max)
            .http2_max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
            .http2_keep_alive_interval(H2_PING_INTERVAL)
            .build(https);
        let sockets = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(header_bytes_max)
            .build(https_for_sockets);
        Self { client, sockets, response_timeout, making }
    }

    /// Sends one request and returns its response once the head has come; both bodies stream.
    /// Redirects are returned, not followed. Whether the body is decoded stands in the request's
    /// extensions as [`DecodeBody`]. Dropping the future, or the response's body, cancels.
    pub async fn send(
        &self,
        request: Request<ReqBody>,
    ) -> Result<Response<ResBody>, OutboundError> {
        let (parts, body) = request.into_parts();
        self.attempt(parts, &Resendable::new(body)).await.map_err(|unanswered| unanswered.error)
    }

    /// As [`Outbound::send`], with a body that can be sent again if this attempt has not begun with it.
    pub(crate) async fn attempt(
        &self,
        mut parts: Parts,
        body: &Resendable,
    ) -> Result<Response<ResBody>, Unanswered> {
        let host = match (parts.uri.scheme_str(), parts.uri.host()) {
            (Some("http" | "https"), Some(host)) => host.to_owned(),
            _ => {
                let error = OutboundError::Url(parts.uri.to_string());
                return Err(Unanswered { error, stage: Stage::Connecting });
            }
        };
        let decode_body = parts.extensions.get::<DecodeBody>().copied().unwrap_or_default();
        // The connection decides the version, and the URL the host.
        parts.version = http::Version::HTTP_11;
        parts.headers.remove(HOST);
        strip_hop_by_hop(&mut parts.headers);
        if decode_body == DecodeBody::Yes {
            decode::advertise(&mut parts.headers);
        }
        let method = parts.method.clone();
        let progress = Arc::new(Progress::default());
        let upload = Upload::new(body.clone(), Arc::clone(&progress));
        let answer = self.client.request(Request::from_parts(parts, upload));
        let limit = self.response_timeout;
        let response = tokio::select! {
            answer = answer => answer.map_err(|error| Unanswered {
                stage: if error.is_connect() { Stage::Connecting } else { Stage::Sending },
                error: OutboundError::from_client(&host, &error),
            })?,
            () = stalled(&progress, limit) => {
                let error = OutboundError::ResponseTimeout { host, limit };
                return Err(Unanswered { error, stage: Stage::Waiting });
            }
        };
        let mut response = response.map(|body| body.map_err(BoxError::from).boxed_unsync());
        strip_hop_by_hop(response.headers_mut());
        Ok(match decode_body {
            DecodeBody::Yes => decode::decode(&method, response),
            DecodeBody::No => response,
        })
    }
}

/// Waits until the server has done nothing for the whole limit.
async fn stalled(progress: &Progress, limit: Duration) {
    let mut seen = progress.mark();
    loop {
        tokio::time::sleep(limit).await;
        let now = progress.mark();
        if now.is_some() && now == seen {
            return;
        }
        seen = now;
    }
}

/// Removes the headers that concern one connection, and those that only proxies and trailers have a use for.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRAILER] {
        headers.remove(name);
    }
}

fn tls_config(
    system: &Arc<RootCertStore>,
    extra_roots: Vec<CertificateDer<'static>>,
) -> ClientConfig {
    let mut roots = system.clone();
    let (_, refused) = match extra_roots.is_empty() {
        true => (0, 0),
        false => Arc::make_mut(&mut roots).add_parsable_certificates(extra_roots),
    };
    if refused > 0 {
        tracing::warn!(refused, "some extra certificate authorities cannot be parsed");
    }
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
