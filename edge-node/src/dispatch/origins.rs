//! What a worker fetches from a host that it has a pool of origins for.

use std::rc::Rc;
use std::sync::Arc;

use atoll_isolate::{Body, FetchHop, HostError};
use futures_util::future::LocalBoxFuture;
use http::Response;

use super::host::{ThreadHost, open, outgoing};
use crate::origins::{LivePool, PoolError, Upstream};
use crate::websocket;

/// Sends a request to an origin of the pool.
pub(super) fn fetch(
    thread: &Rc<ThreadHost>,
    pool: Arc<LivePool>,
    hop: FetchHop,
) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
    let depth = thread.depth(&hop.invocation);
    let upstream = Upstream {
        pool,
        clients: thread.origins.clone(),
        whence: thread.whence(&hop.invocation),
        metrics: thread.hub.metrics().clone(),
    };
    let failed = |error: PoolError| HostError::Refused(format!("Fetch failed: {error}"));
    Box::pin(async move {
        if !websocket::is_asked(hop.request.headers()) {
            let response = upstream.send(outgoing(hop, depth)).await.map_err(failed)?;
            return Ok(response.map(|body| Box::pin(body) as Body));
        }
        let mut request = hop.request.map(drop);
        depth.stamp(request.headers_mut());
        let (response, wire, under_way) = upstream.websocket(request).await.map_err(failed)?;
        let mut response = response.map(|body| Box::pin(body) as Body);
        if let Some(wire) = wire {
            open(&mut response, wire, under_way);
        }
        Ok(response)
    })
}
