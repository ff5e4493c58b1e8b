//! The extensions that make up the runtime. The build script compiles this file too: the snapshot and the
//! running process must agree on every op and its place.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::thread::LocalKey;

use deno_core::{Extension, OpDecl};

use crate::ops;

deno_core::extension!(deno_net, lazy_loaded_js = ["ext:deno_net/02_tls.js" = "js/no_tls_keys.js"],);

deno_core::extension!(
    atoll,
    deps = [deno_webidl, deno_web, deno_crypto, deno_fetch],
    ops = [
        ops::op_body_bytes,
        ops::op_codec_close,
        ops::op_codec_end,
        ops::op_codec_new,
        ops::op_codec_read,
        ops::op_codec_write,
        ops::op_fetch_hop,
        ops::op_invocation_ended,
        ops::op_invocation_fail,
        ops::op_invocation_handled,
        ops::op_invocation_pass_through,
        ops::op_invocation_wait_left,
        ops::op_kv_delete,
        ops::op_kv_get,
        ops::op_kv_list,
        ops::op_kv_put,
        ops::op_late_script,
        ops::op_late_script_ran,
        ops::op_log,
        ops::op_now,
        ops::op_report_error,
        ops::op_request_body,
        ops::op_request_cf,
        ops::op_request_flags,
        ops::op_request_headers,
        ops::op_respond,
        ops::op_respond_socket,
        ops::op_rule_decided,
        ops::op_socket_accept,
        ops::op_socket_close,
        ops::op_socket_next,
        ops::op_socket_over,
        ops::op_socket_pair,
        ops::op_socket_send,
        ops::op_socket_send_bytes,
        ops::op_time_origin,
        ops::op_track,
        ops::op_wait_until_begun,
        ops::op_wait_until_over,
    ],
    lazy_loaded_js = [
        dir "js",
        "async_hooks_module.js",
        "async_ops.js",
        "body.js",
        "body_class.js",
        "body_streams.js",
        "bytes.js",
        "clock.js",
        "compression.js",
        "crypto.js",
        "events.js",
        "extras.js",
        "fetch.js",
        "flags.js",
        "globals.js",
        "invocation.js",
        "kv.js",
        "late.js",
        "main.js",
        "performance.js",
        "request.js",
        "response.js",
        "stream_classes.js",
        "websocket.js",
        "workers_module.js",
    ],
    synthetic_esm = [
        "cloudflare:workers" = "ext:atoll/workers_module.js",
        "node:async_hooks" = "ext:atoll/async_hooks_module.js"
    ],
);

/// Scripts that are not in the snapshot: an isolate runs one when it first needs it (`js/late.js`). The build script
/// writes their sources into the binary, in this order.
pub(crate) const LATE_SCRIPTS: &[&str] = &[
    "ext:atoll/body_streams.js",
    "ext:atoll/compression.js",
    "ext:atoll/flags.js",
    "ext:atoll/performance.js",
    "ext:atoll/stream_classes.js",
    "ext:atoll/websocket.js",
    "ext:deno_fetch/21_formdata.js",
    "ext:deno_web/01_urlpattern.js",
    "ext:deno_web/06_streams.js",
    "ext:deno_web/09_file.js",
    "ext:deno_web/13_message_port.js",
    "ext:deno_web/15_performance.js",
];

/// Ops of Deno's crates that no worker can need, by how their names begin. Some reach past the host's gate or
/// across isolates of a process; all of them cost each isolate time and memory. `op_now`, what compresses, and their kin
/// come from this crate instead.
const LEFT_OUT: &[&str] = &[
    "op_base64_decode_into",
    "op_base64url_",
    "op_broadcast_",
    "op_compression_",
    "op_fetch",
    "op_geometry_",
    "op_lock_manager_",
    "op_now",
    "op_preview_entries",
    "op_time_origin",
    "op_utf8_to_byte_string",
];

/// Native classes of Deno's crates that workers have.
const CLASSES: &[&str] = &["Console"];

type Ops = OnceCell<&'static [OpDecl]>;

thread_local! {
    // Chosen once for each thread: V8 borrows them for good then, and no isolate keeps a copy of its own.
    static WEB_OPS: Ops = const { OnceCell::new() };
    static FETCH_OPS: Ops = const { OnceCell::new() };
}

fn trimmed(mut extension: Extension, ops: &'static LocalKey<Ops>) -> Extension {
    let left_out = |op: &OpDecl| LEFT_OUT.iter().any(|start| op.name.starts_with(start));
    let choose = || -> &'static [OpDecl] {
        let ops = extension.ops.iter().filter(|op| !left_out(op)).copied();
        Vec::leak(ops.collect())
    };
    extension.ops = Cow::Borrowed(ops.with(|ops| *ops.get_or_init(choose)));
    extension.objects.to_mut().retain(|class| CLASSES.contains(&class.name.0));
    extension
}

/// Every extension, in the order that the snapshot was made with.
pub(crate) fn extensions() -> Vec<Extension> {
    let web = deno_web::deno_web::init(
        std::sync::Arc::new(deno_web::BlobStore::default()),
        None,
        false,
        deno_web::InMemoryBroadcastChannel::default(),
    );
    vec![
        deno_webidl::deno_webidl::init(),
        trimmed(web, &WEB_OPS),
        deno_crypto::deno_crypto::init(None),
        deno_net::init(),
        trimmed(deno_fetch::deno_fetch::init(deno_fetch::Options::default()), &FETCH_OPS),
        atoll::init(),
    ]
}
