//! The op that takes a handler's response.

use bytes::Bytes;
use deno_core::{OpState, op2, v8};
use deno_error::JsErrorBox;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::{HEADERS_BYTES_MAX, header_bytes, headers_too_large, invocations};
use crate::body::{ResponseBody, StreamBody};
use crate::invocation::{Answer, BodyGuard};
use crate::socket::SocketSlot;

/// The content type that the Fetch standard gives a string body.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain;charset=UTF-8");

/// The content type that `Response.json()` gives.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What JS passes instead of a list when `TEXT` or `JSON` is the only header.
const ONLY_TEXT: u32 = 1;
const ONLY_JSON: u32 = 2;

/// The longest string that is taken as a body, in characters. A longer one is made of pieces that together
/// take less, and laid out here it would be more than an isolate may hold.
const BODY_TEXT_MAX: usize = 128 << 20;

/// A string's bytes, one for each character: header names and values are byte strings.
fn byte_string(
    scope: &mut v8::PinScope<'_, '_>,
    value: v8::Local<'_, v8::Value>,
) -> Option<Vec<u8>> {
    let text: v8::Local<'_, v8::String> = value.try_into().ok()?;
    let mut bytes = vec![0; text.length()];
    text.write_one_byte_v2(scope, 0, &mut bytes, v8::WriteFlags::empty());
    Some(bytes)
}

fn header(
    scope: &mut v8::PinScope<'_, '_>,
    entry: v8::Local<'_, v8::Value>,
) -> Option<(HeaderName, HeaderValue)> {
    let pair: v8::Local<'_, v8::Array> = entry.try_into().ok()?;
    let name = pair.get_index(scope, 0)?;
    let value = pair.get_index(scope, 1)?;
    let name = byte_string(scope, name)?;
    let value = byte_string(scope, value)?;
    if name.eq_ignore_ascii_case(b"content-type") {
        let value = if value == TEXT.as_bytes() {
            TEXT
        } else {
            HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?
        };
        return Some((CONTENT_TYPE, value));
    }
    Some((
        HeaderName::from_bytes(&name).ok()?,
        HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?,
    ))
}

/// Headers that describe the connection are the server's to write.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "transfer-encoding" | "upgrade" | "proxy-connection"
    )
}

fn listed<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    headers: v8::Local<'a, v8::Value>,
    into: &mut HeaderMap,
) -> Result<(), JsErrorBox> {
    let Ok(headers) = v8::Local::<v8::Array>::try_from(headers) else { return Ok(()) };
    let mut bytes = 0;
    for index in 0..headers.length() {
        let Some(entry) = headers.get_index(scope, index) else { continue };
        let Some((name, value)) = header(scope, entry) else {
            return Err(JsErrorBox::type_error(
                "the response has a header that HTTP does not allow",
            ));
        };
        bytes += header_bytes(name.as_str().len(), value.len());
        if bytes > HEADERS_BYTES_MAX {
            return Err(headers_too_large("response"));
        }
        if !is_hop_by_hop(&name) {
            into.try_append(name, value).map_err(|_| headers_too_large("response"))?;
        }
    }
    Ok(())
}

/// The response that is a text and nothing else.
pub(crate) fn plain_text(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Full(Some(Bytes::from(text))));
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

#[op2(fast)]
pub(crate) fn op_respond<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: &mut OpState,
    #[smi] key: u32,
    #[smi] status: u16,
    headers: v8::Local<'a, v8::Value>,
    body: v8::Local<'a, v8::Value>,
    #[smi] only: u32,
) -> Result<(), JsErrorBox> {
    let invocations = invocations(state);
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| !status.is_informational())
        .ok_or_else(|| JsErrorBox::range_error(format!("{status} is no status of a response")))?;
    let body = if body.is_null_or_undefined() {
        ResponseBody::Empty
    } else if let Ok(text) = v8::Local::<v8::String>::try_from(body) {
        if text.length() > BODY_TEXT_MAX {
            return Err(JsErrorBox::range_error(format!(
                "the response's body is a string of more than {BODY_TEXT_MAX} characters: send a stream"
            )));
        }
        ResponseBody::Full(Some(Bytes::from(text.to_rust_string_lossy(scope))))
    } else if let Ok(view) = v8::Local::<v8::Uint8Array>::try_from(body) {
        let mut bytes = vec![0; view.byte_length()];
        view.copy_contents(&mut bytes);
        ResponseBody::Full(Some(Bytes::from(bytes)))
    } else {
        let rid = body.uint32_value(scope).unwrap_or(0);
        let resource = state.resource_table.take_any(rid).map_err(JsErrorBox::from_err)?;
        ResponseBody::Stream(StreamBody::new(
            resource,
            Some(BodyGuard::new(invocations.clone(), key)),
        ))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    match only {
        ONLY_TEXT => drop(response.headers_mut().insert(CONTENT_TYPE, TEXT)),
        ONLY_JSON => drop(response.headers_mut().insert(CONTENT_TYPE, JSON)),
        _ => listed(scope, headers, response.headers_mut())?,
    }
    if matches!(response.body(), ResponseBody::Full(_)) {
        // Its length is known, whatever the worker says of it.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    invocations.answer(key, Answer::Response(response));
    Ok(())
}

/// The response that becomes a WebSocket: the end with these numbers goes to the client.
#[op2(fast)]
pub(crate) fn op_respond_socket<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: &mut OpState,
    #[smi] key: u32,
    headers: v8::Local<'a, v8::Value>,
    #[smi] owner: u32,
    #[smi] index: u32,
) -> Result<(), JsErrorBox> {
    let invocations = invocations(state);
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    listed(scope, headers, response.headers_mut())?;
    let end = invocations.socket(owner, index);
    let socket = end.and_then(|end| end.hand_out()).ok_or_else(|| {
        JsErrorBox::type_error(
            "Can't return WebSocket in a Response after calling accept(), or twice: return the other end of the pair.",
        )
    })?;
    invocations.answer_with_socket(key, &socket);
    SocketSlot::put(&mut response, socket);
    invocations.answer(key, Answer::Response(response));
    Ok(())
}
