//! The ops: the only Rust that JS can call. Each finds its invocation by number and never trusts it.

mod body;
mod codec;
mod fetch;
mod kv;
pub(crate) mod late;
mod life;
mod request;
pub(crate) mod respond;
mod rule;
mod socket;
pub(crate) mod time;

pub(crate) use body::op_body_bytes;
pub(crate) use codec::{op_codec_close, op_codec_end, op_codec_new, op_codec_read, op_codec_write};
pub(crate) use fetch::op_fetch_hop;
pub(crate) use kv::{op_kv_delete, op_kv_get, op_kv_list, op_kv_put};
pub(crate) use late::{op_late_script, op_late_script_ran};
pub(crate) use life::{
    op_invocation_ended, op_invocation_fail, op_invocation_handled, op_invocation_pass_through,
    op_invocation_wait_left, op_log, op_report_error, op_wait_until_begun, op_wait_until_over,
};
pub(crate) use request::{op_request_body, op_request_cf, op_request_flags, op_request_headers};
pub(crate) use respond::{op_respond, op_respond_socket};
pub(crate) use rule::{op_rule_decided, op_track};
pub(crate) use socket::{
    op_socket_accept, op_socket_close, op_socket_next, op_socket_over, op_socket_pair,
    op_socket_send, op_socket_send_bytes,
};
pub(crate) use time::{op_now, op_time_origin};

use std::rc::Rc;

use deno_core::OpState;
use deno_error::JsErrorBox;

use crate::host::{Host, HostError};
use crate::invocation::Invocations;

/// The headers of one request or response that a worker sends, in bytes.
const HEADERS_BYTES_MAX: usize = 128 << 10;

/// What a header takes on the wire besides its name and value.
const HEADER_EXTRA_BYTES: usize = 4;

fn header_bytes(name: usize, value: usize) -> usize {
    name + value + HEADER_EXTRA_BYTES
}

fn headers_too_large(of: &str) -> JsErrorBox {
    JsErrorBox::type_error(format!(
        "the {of} has too many headers, or too large ones: together they may take {HEADERS_BYTES_MAX} bytes"
    ))
}

/// What ops find in an instance's `OpState`.
#[derive(Clone)]
pub(crate) struct InstanceState {
    pub(crate) invocations: Rc<Invocations>,
    pub(crate) host: Rc<dyn Host>,
}

fn instance(state: &OpState) -> InstanceState {
    state.borrow::<InstanceState>().clone()
}

fn invocations(state: &OpState) -> Rc<Invocations> {
    state.borrow::<InstanceState>().invocations.clone()
}

fn ended() -> JsErrorBox {
    JsErrorBox::generic("the invocation that this belongs to has ended")
}

fn thrown(error: HostError) -> JsErrorBox {
    match error {
        HostError::Refused(message) => JsErrorBox::type_error(message),
        HostError::Failed(message) => JsErrorBox::generic(message),
    }
}
