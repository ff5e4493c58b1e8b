//! Requests that would become WebSockets: over HTTP/1.1 by Upgrade (RFC 6455), over HTTP/2 by extended CONNECT
//! (RFC 8441). The bytes that follow are handed over as they come; what they mean is not known here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::header::{HeaderValue, UPGRADE};
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{Activity, Borrowed};

const WEBSOCKET: &str = "websocket";

/// What is taken at once for a stream of HTTP/2, in bytes: hyper copies it whole, and sends it whole as soon as there
/// is room for any of it.
pub(crate) const WRITE_BYTES_MAX: usize = 64 << 10;

/// How a request asks for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeKind {
    /// A GET with the header Upgrade, answered by 101.
    Http1,
    /// A CONNECT with the pseudo-header `:protocol`, answered by 200.
    Http2,
}

/// A client's offer to go on with a WebSocket instead of HTTP.
#[derive(Debug)]
pub struct Upgrade {
    kind: UpgradeKind,
    on: OnUpgrade,
    activity: Arc<Activity>,
}

/// Where a request carries its offer; it stays behind when that is taken.
#[derive(Clone)]
struct Offer(Arc<Mutex<Option<Upgrade>>>);

impl Upgrade {
    /// Marks a request that asks for a WebSocket. One over HTTP/2 is made to look as over HTTP/1.1: workers know
    /// no other. Free for all other requests.
    pub(crate) fn mark<B>(request: &mut Request<B>, activity: &Arc<Activity>) {
        let Some(on) = request.extensions_mut().remove::<OnUpgrade>() else { return };
        let kind = match request.version() {
            Version::HTTP_11 if is_http1_upgrade(request) => UpgradeKind::Http1,
            Version::HTTP_2 if is_extended_connect(request) => {
                *request.method_mut() = Method::GET;
                request.headers_mut().insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
                UpgradeKind::Http2
            }
            _ => return,
        };
        let upgrade = Self { kind, on, activity: activity.clone() };
        request.extensions_mut().insert(Offer(Arc::new(Mutex::new(Some(upgrade)))));
    }

    /// Takes a request's offer.
    pub fn take<B>(request: &Request<B>) -> Option<Self> {
        let offer = request.extensions().get::<Offer>()?;
        offer.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a request asks for a WebSocket, also when its offer was taken.
    pub fn is_asked<B>(request: &Request<B>) -> bool {
        request.extensions().get::<Offer>().is_some()
    }

    /// How it is asked for, and so how it must be answered.
    pub fn kind(&self) -> UpgradeKind {
        self.kind
    }

    /// Accepts. The stream is there once the response has been sent; the connection counts as busy until the
    /// stream is dropped, or the returned future is.
    ///
    /// # Errors
    /// When the client leaves before.
    pub fn accept(self) -> impl Future<Output = io::Result<UpgradedStream>> + Send + 'static {
        let borrowed = Borrowed::begin(&self.activity);
        async move {
            let upgraded = self.on.await.map_err(io::Error::other)?;
            let write_bytes_max = match self.kind {
                UpgradeKind::Http1 => usize::MAX,
                UpgradeKind::Http2 => WRITE_BYTES_MAX,
            };
            Ok(UpgradedStream { io: TokioIo::new(upgraded), borrowed, write_bytes_max })
        }
    }
}

fn is_http1_upgrade<B>(request: &Request<B>) -> bool {
    let values = request.headers().get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let mut names = values.flat_map(|value| value.split(','));
    request.method() == Method::GET && names.any(|name| name.trim().eq_ignore_ascii_case(WEBSOCKET))
}

fn is_extended_connect<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET))
}

/// What a client sends and gets after an upgrade. It fails when its listener closes the connection: at the end of a
/// drain, or because the client takes nothing for too long.
#[derive(Debug)]
pub struct UpgradedStream {
    io: TokioIo<Upgraded>,
    borrowed: Borrowed,
    write_bytes_max: usize,
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.borrowed.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.borrowed.check(cx)?;
        let at_once = bytes.len().min(self.write_bytes_max);
        Pin::new(&mut self.io).poll_write(cx, &bytes[..at_once])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.borrowed.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
