//! The ops behind WebSocket: pairs of ends, and what passes through them. JS has a socket by the number of the
//! invocation that it belongs to and its own among that one's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use deno_core::{OpState, ToJsBuffer, op2};
use deno_error::JsErrorBox;
use serde::Serialize;

use super::{ended, invocations};
use crate::invocation::Invocations;
use crate::socket::{SENT_BYTES_MAX, Socket, SocketMessage};
use crate::sockets::SocketEnd;

/// One message as JS takes it. Which fields are there says what it is.
#[derive(Default, Serialize)]
pub(crate) struct Message {
    text: Option<String>,
    bytes: Option<ToJsBuffer>,
    /// The last one: a close code.
    code: Option<u16>,
    reason: String,
    clean: bool,
}

impl From<SocketMessage> for Message {
    fn from(message: SocketMessage) -> Self {
        let last = |close: crate::socket::SocketClose, clean| Self {
            code: Some(close.code),
            reason: close.reason,
            clean,
            ..Self::default()
        };
        match message {
            SocketMessage::Text(text) => Self { text: Some(text), ..Self::default() },
            SocketMessage::Binary(bytes) => {
                Self { bytes: Some(ToJsBuffer::from(bytes.to_vec())), ..Self::default() }
            }
            SocketMessage::Close(close) => last(close, true),
            SocketMessage::Lost(close) => last(close, false),
        }
    }
}

fn end_of(state: &OpState, owner: u32, index: u32) -> Option<(Rc<Invocations>, Rc<SocketEnd>)> {
    let invocations = invocations(state);
    let end = invocations.socket(owner, index)?;
    Some((invocations, end))
}

fn send(state: &OpState, owner: u32, index: u32, message: SocketMessage) -> Result<(), JsErrorBox> {
    let bytes = match &message {
        SocketMessage::Text(text) => text.len(),
        SocketMessage::Binary(bytes) => bytes.len(),
        SocketMessage::Close(_) | SocketMessage::Lost(_) => 0,
    };
    if bytes > SENT_BYTES_MAX {
        return Err(JsErrorBox::range_error(format!(
            "a WebSocket message may have {SENT_BYTES_MAX} bytes, and this one has {bytes}: send it in parts"
        )));
    }
    // Once the invocation has ended there is nobody to send to, as after a close.
    if let Some((invocations, end)) = end_of(state, owner, index) {
        end.send(&invocations, message);
    }
    Ok(())
}

/// Makes two ends; gives the number of the first, which the second follows.
#[op2(fast)]
#[smi]
pub(crate) fn op_socket_pair(state: &mut OpState, #[smi] owner: u32) -> Result<u32, JsErrorBox> {
    let invocations = invocations(state);
    let (one, other) = Socket::pair();
    let first = invocations.add_socket(owner, one, None).map_err(JsErrorBox::generic)?;
    invocations.add_socket(owner, other, None).map_err(JsErrorBox::generic)?;
    Ok(first)
}

#[op2(fast)]
pub(crate) fn op_socket_accept(state: &mut OpState, #[smi] owner: u32, #[smi] index: u32) {
    invocations(state).accept_socket(owner, index);
}

#[op2(fast)]
pub(crate) fn op_socket_send(
    state: &mut OpState,
    #[smi] owner: u32,
    #[smi] index: u32,
    #[string] text: String,
) -> Result<(), JsErrorBox> {
    send(state, owner, index, SocketMessage::Text(text))
}

#[op2(fast)]
pub(crate) fn op_socket_send_bytes(
    state: &mut OpState,
    #[smi] owner: u32,
    #[smi] index: u32,
    #[buffer] bytes: &[u8],
) -> Result<(), JsErrorBox> {
    send(state, owner, index, SocketMessage::Binary(Bytes::copy_from_slice(bytes)))
}

#[op2(fast)]
pub(crate) fn op_socket_close(
    state: &mut OpState,
    #[smi] owner: u32,
    #[smi] index: u32,
    #[smi] code: u16,
    #[string] reason: String,
) {
    if let Some((_, end)) = end_of(state, owner, index) {
        end.close(crate::socket::SocketClose { code, reason });
    }
}

/// Every listener has heard of the last message.
#[op2(fast)]
pub(crate) fn op_socket_over(state: &mut OpState, #[smi] owner: u32, #[smi] index: u32) {
    if let Some((_, end)) = end_of(state, owner, index) {
        end.over();
    }
}

/// The next message. Nothing after the last one, or once the invocation has ended.
#[op2(async(lazy), fast)]
#[serde]
pub(crate) async fn op_socket_next(
    state: Rc<RefCell<OpState>>,
    #[smi] owner: u32,
    #[smi] index: u32,
) -> Result<Option<Message>, JsErrorBox> {
    let (invocations, end) = end_of(&state.borrow(), owner, index).ok_or_else(ended)?;
    let next = poll_fn(|cx| end.poll_next(cx)).await;
    if end.hears_outside() {
        // Ops are polled between slices: the next one delivers it.
        invocations.message_came(owner);
    }
    Ok(next.map(Message::from))
}
