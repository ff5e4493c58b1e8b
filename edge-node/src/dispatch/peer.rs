//! What other nodes ask of this one. They are known by their certificates.

use std::future::{Ready, ready};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_isolate::ResponseBody;
use atoll_router::{PeerCredentials, PeerService, PeerTls, PeerTlsError};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::AnswerBody;
use crate::cluster::PING_PATH;

/// What requests between nodes need, for all threads of a process.
pub struct ServingPeering {
    /// What the node shows to others.
    pub(super) tls: Arc<ArcSwap<PeerTls>>,
}

impl ServingPeering {
    /// Shows these credentials.
    ///
    /// # Errors
    /// If they cannot be used.
    pub(crate) fn new(credentials: &PeerCredentials) -> Result<Self, PeerTlsError> {
        let tls = Arc::new(ArcSwap::from_pointee(PeerTls::new(credentials)?));
        Ok(Self { tls })
    }

    /// Shows others from now on.
    ///
    /// # Errors
    /// If they cannot be used: those of before stay.
    pub(crate) fn renew(&self, credentials: &PeerCredentials) -> Result<(), PeerTlsError> {
        self.tls.store(Arc::new(PeerTls::new(credentials)?));
        Ok(())
    }
}

/// Answers other nodes on one thread.
pub(super) struct Nodes;

impl PeerService for Nodes {
    type Body = AnswerBody;

    fn call(
        &self,
        request: Request<Incoming>,
        _node: &Rc<str>,
    ) -> impl Future<Output = Response<AnswerBody>> + use<> + 'static {
        let is_ping = request.method() == Method::GET && request.uri().path() == PING_PATH;
        answered(if is_ping { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND })
    }
}

fn answered(status: StatusCode) -> Ready<Response<AnswerBody>> {
    let mut response = Response::new(AnswerBody::Here(ResponseBody::Empty));
    *response.status_mut() = status;
    ready(response)
}
