//! WebSockets that another node serves: how a response carries one, and how nodes tell it from other answers.

use std::sync::{Arc, Mutex, PoisonError};

use atoll_isolate::ResponseBody;
use atoll_router::PeerSocket;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::super::body::AnswerBody;
use super::neighbours::Chosen;

/// On an answer to a handshake: the status that the worker gave it. Between nodes a 2xx would be a WebSocket.
const STATUS: HeaderName = HeaderName::from_static("atoll-status");

/// A WebSocket by the stream to the node that serves it. It counts as under way there while this lives.
pub(in super::super) struct NodeSocket {
    pub(in super::super) stream: PeerSocket,
    pub(in super::super) chosen: Chosen,
}

/// How a response carries one: among its extensions.
#[derive(Clone)]
struct Slot(Arc<Mutex<Option<NodeSocket>>>);

impl NodeSocket {
    /// The response that a worker would have given here, with this instead of the worker's socket.
    pub(super) fn respond(self, headers: HeaderMap) -> Response<AnswerBody> {
        let mut response = Response::new(AnswerBody::Here(ResponseBody::Empty));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Slot(Arc::new(Mutex::new(Some(self)))));
        response
    }

    /// Takes it out of a response, if there is one.
    pub(in super::super) fn take<B>(response: &mut Response<B>) -> Option<Self> {
        let slot = response.extensions_mut().remove::<Slot>()?;
        slot.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The answer of a worker that gives no socket, for the node that asked for one.
pub(in super::super) fn without_socket<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().remove(STATUS);
    if response.status().is_success() {
        let status = HeaderValue::from(response.status().as_u16());
        response.headers_mut().insert(STATUS, status);
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// The same as the worker gave it.
pub(super) fn as_given<B>(mut response: Response<B>) -> Response<B> {
    let given = response.headers_mut().remove(STATUS);
    if let Some(status) = given.and_then(|given| StatusCode::from_bytes(given.as_bytes()).ok()) {
        *response.status_mut() = status;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_socket_arrives_as_it_was_given_and_is_none_on_the_way() {
        for status in [200, 204, 299, 302, 426, 500] {
            let mut given = Response::new(());
            *given.status_mut() = StatusCode::from_u16(status).unwrap();
            given.headers_mut().insert(STATUS, HeaderValue::from_static("101"));
            let sent = without_socket(given);
            assert!(!sent.status().is_success(), "{status}");
            let taken = as_given(sent);
            assert_eq!((taken.status().as_u16(), taken.headers().len()), (status, 0));
        }
    }
}
