//! The op behind `fetch()`: one hop through the host's gate.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use deno_core::{ByteString, CancelHandle, CancelTryFuture, JsBuffer, OpState, ResourceId, op2};
use deno_error::JsErrorBox;
use http::header::{HeaderName, HeaderValue, LOCATION};
use serde::Serialize;

use super::{
    HEADERS_BYTES_MAX, InstanceState, ended, header_bytes, headers_too_large, instance, thrown,
};
use crate::body::{BodyResource, ResponseBody, StreamBody};
use crate::host::{Body, Decode, FetchHop, Via};
use crate::socket::SocketSlot;

/// What JS passes for a hop to the internet whose body is to be decoded; a smaller number is one whose body
/// is left as it comes, and a capability number is a service binding.
const INTERNET: i32 = -1;

/// What JS gets where a response brought no socket.
const NO_SOCKET: i32 = -1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HopResult {
    status: u16,
    status_text: String,
    headers: Vec<(ByteString, ByteString)>,
    location: Option<String>,
    rid: ResourceId,
    decoded: bool,
    /// The number of the socket that the response brought, or [`NO_SOCKET`].
    socket: i32,
}

fn request_headers(headers: Vec<(ByteString, ByteString)>) -> Result<http::HeaderMap, JsErrorBox> {
    let mut map = http::HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += header_bytes(name.len(), value.len());
        if bytes > HEADERS_BYTES_MAX {
            return Err(headers_too_large("request"));
        }
        let name = HeaderName::from_bytes(&name).map_err(|_| {
            JsErrorBox::type_error("a request header has a name that HTTP does not allow")
        })?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| {
            JsErrorBox::type_error(format!(
                "the request header {name} has a value that HTTP does not allow"
            ))
        })?;
        map.try_append(name, value).map_err(|_| headers_too_large("request"))?;
    }
    Ok(map)
}

// Lazy: the host may enter another isolate, which must not happen inside this one's slice.
#[op2(async(lazy))]
#[serde]
#[allow(clippy::too_many_arguments, reason = "one call into Rust per hop")]
pub(crate) async fn op_fetch_hop(
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    #[smi] via: i32,
    #[string] method: String,
    #[string] url: String,
    #[serde] headers: Vec<(ByteString, ByteString)>,
    #[buffer] body: Option<JsBuffer>,
    #[smi] body_rid: i32,
    #[smi] cancel_rid: ResourceId,
) -> Result<HopResult, JsErrorBox> {
    let (InstanceState { invocations, host }, resource, by_signal) = {
        let mut state = state.borrow_mut();
        let by_signal =
            state.resource_table.get::<CancelHandle>(cancel_rid).map_err(JsErrorBox::from_err)?;
        // A negative number is no resource.
        let resource = match ResourceId::try_from(body_rid) {
            Err(_) => None,
            Ok(rid) => Some(state.resource_table.take_any(rid).map_err(JsErrorBox::from_err)?),
        };
        (instance(&state), resource, by_signal)
    };
    let (invocation, by_end) = invocations.count_subrequest(key).map_err(JsErrorBox::generic)?;
    let body: Option<Body> = match (resource, body) {
        (Some(resource), _) => {
            Some(Box::pin(ResponseBody::Stream(StreamBody::new(resource, None))))
        }
        (None, Some(bytes)) => {
            Some(Box::pin(ResponseBody::Full(Some(Bytes::copy_from_slice(&bytes)))))
        }
        (None, None) => None,
    };
    let mut request = http::Request::builder()
        .method(method.as_str())
        .uri(&url)
        .body(body)
        .map_err(|error| JsErrorBox::type_error(format!("cannot fetch {url}: {error}")))?;
    *request.headers_mut() = request_headers(headers)?;
    let (via, decode) = match u32::try_from(via) {
        Ok(capability) => (Via::Service(capability), Decode::No),
        Err(_) if via == INTERNET => (Via::Internet, Decode::Yes),
        Err(_) => (Via::Internet, Decode::No),
    };
    let hop = FetchHop { invocation, via, request, decode };
    let line = invocations.clone();
    let fetching = async move {
        let connection = match via {
            Via::Internet => Some(line.connection(key).await.ok_or_else(ended)?),
            Via::Service(_) => None,
        };
        let response = host.fetch(hop).await.map_err(thrown)?;
        Ok::<_, JsErrorBox>((response, connection))
    };
    let (response, connection) = fetching.try_or_cancel(by_signal).try_or_cancel(by_end).await?;
    let mut response = response;
    let mut connection = connection;
    let socket = match SocketSlot::take(&mut response) {
        None => NO_SOCKET,
        Some(socket) => {
            socket.crosses();
            let number = invocations.add_socket(key, socket, connection.take());
            i32::try_from(number.map_err(JsErrorBox::generic)?).unwrap_or(NO_SOCKET)
        }
    };
    let (parts, body) = response.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| {
            (ByteString::from(name.as_str()), ByteString::from(value.as_bytes().to_vec()))
        })
        .collect();
    let location =
        parts.headers.get(LOCATION).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let resource = invocations
        .with(key, |invocation| invocation.hold(BodyResource::new(body, connection)))
        .ok_or_else(ended)?;
    let rid = state.borrow_mut().resource_table.add_rc(resource);
    Ok(HopResult {
        status: parts.status.as_u16(),
        status_text: parts.status.canonical_reason().unwrap_or_default().to_owned(),
        headers,
        location,
        rid,
        decoded: false,
        socket,
    })
}
