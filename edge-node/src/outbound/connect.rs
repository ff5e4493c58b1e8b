//! From a host to a socket: resolve, check every address, and connect to one that was checked.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use http::Uri;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::address::is_public;
use super::error::OutboundError;

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The least time one address gets.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// What to do about addresses that are not public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivateAddresses {
    /// Refuse them, but for the networks that are allowed by name.
    #[default]
    Refuse,
    /// Connect to any address: for a node whose workers are all its owner's.
    Allow,
}

/// Which addresses may be connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    pub(super) allow: Vec<IpNet>,
    pub(super) private: PrivateAddresses,
}

impl Policy {
    fn permits(&self, address: IpAddr) -> bool {
        // A mapped address reaches the IPv4 host, so it is allowed as that one.
        let plain = address.to_canonical();
        self.private == PrivateAddresses::Allow
            || is_public(address)
            || self.allow.iter().any(|network| network.contains(&plain))
    }
}

/// Opens connections for the HTTP client.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
    /// Where all connections go, unless the URL says it.
    destination: Option<Arc<Destination>>,
}

/// A place to connect to in place of the URL's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// A name, or an address as URLs write it.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The time for connecting, over all addresses of a name.
    pub(crate) connect_timeout: Duration,
}

struct Shared {
    /// `None` when the system's configuration cannot be read: then getaddrinfo resolves.
    resolver: Option<TokioResolver>,
    policy: Policy,
    dns_timeout: Duration,
    connect_timeout: Duration,
}

impl Connector {
    pub(super) fn new(
        policy: Policy,
        resolver: Option<TokioResolver>,
        dns_timeout: Duration,
        connect_timeout: Duration,
    ) -> Self {
        let shared = Arc::new(Shared { resolver, policy, dns_timeout, connect_timeout });
        Self { shared, destination: None }
    }

    /// The same, to one place.
    pub(super) fn to(&self, destination: Destination) -> Self {
        Self { shared: self.shared.clone(), destination: Some(Arc::new(destination)) }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = OutboundError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, OutboundError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), OutboundError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (shared, destination) = (Arc::clone(&self.shared), self.destination.clone());
        Box::pin(async move {
            let connected = match destination {
                Some(to) => shared.connect(&to).await,
                None => shared.connect(&shared.destination(&uri)?).await,
            };
            connected.map(TokioIo::new)
        })
    }
}

impl Shared {
    /// Where a URL leads.
    fn destination(&self, uri: &Uri) -> Result<Destination, OutboundError> {
        let host = uri.host().ok_or_else(|| OutboundError::Url(uri.to_string()))?.to_owned();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        Ok(Destination { host, port, connect_timeout: self.connect_timeout })
    }

    async fn connect(&self, to: &Destination) -> Result<TcpStream, OutboundError> {
        let Destination { host, port, connect_timeout } = to;
        let addresses = self.addresses(host).await?;
        let deadline = Instant::now() + *connect_timeout;
        let attempt_max = (*connect_timeout / addresses.len() as u32).max(ATTEMPT_MIN);
        let mut failure = None;
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = TcpStream::connect(SocketAddr::new(address, *port));
            let reason = match timeout(attempt_max.min(left), attempt).await {
                Ok(Ok(socket)) => {
                    // A failure costs latency, not correctness.
                    let _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            failure = Some(OutboundError::Connect { host: host.clone(), address, reason });
        }
        Err(failure.unwrap_or_else(|| no_address(host)))
    }

    /// The addresses of a host that may be connected to: at least one.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, OutboundError> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let resolved = match literal.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) if ends_in_a_number(host) => return Err(OutboundError::Host(host.to_owned())),
            Err(_) => timeout(self.dns_timeout, self.resolve(host)).await.map_err(|_| {
                OutboundError::ResolveTimeout { host: host.to_owned(), limit: self.dns_timeout }
            })??,
        };
        let refused = resolved.first().copied();
        let mut permitted = resolved;
        permitted.retain(|address| self.policy.permits(*address));
        permitted.truncate(ADDRESSES_MAX);
        match (permitted.is_empty(), refused) {
            (false, _) => Ok(permitted),
            (true, Some(address)) => {
                Err(OutboundError::NotPublic { host: host.to_owned(), address })
            }
            (true, None) => Err(no_address(host)),
        }
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, OutboundError> {
        let failed = |reason: String| OutboundError::Resolve { host: host.to_owned(), reason };
        if let Some(resolver) = &self.resolver {
            let found = resolver.lookup_ip(host).await.map_err(|e| failed(e.to_string()))?;
            return Ok(found.iter().collect());
        }
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|e| failed(e.to_string()))?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

fn no_address(host: &str) -> OutboundError {
    OutboundError::Resolve { host: host.to_owned(), reason: "the name has no address".to_owned() }
}

/// Whether a host is one that the URL standard reads as an IPv4 address ("ends in a number"):
/// `127.1`, `0x7f.1`, `2130706433`. The caller's URL parser has turned real ones into plain form.
fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    hex.map_or(!last.is_empty() && digits(last), |hex| {
        hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}
