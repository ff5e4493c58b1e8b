//! The extensions that make up the runtime. The build script compiles this file too: the snapshot and the
//! running process must agree on every op and its place.

use deno_core::{Extension, OpDecl};

use crate::ops;

deno_core::extension!(deno_net, lazy_loaded_js = ["ext:deno_net/02_tls.js" = "js/no_tls_keys.js"],);

deno_core::extension!(
    atoll,
    deps = [deno_webidl, deno_web, deno_crypto, deno_fetch],
    ops = [
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
        ops::op_log,
        ops::op_report_error,
        ops::op_request_body,
        ops::op_request_cf,
        ops::op_request_headers,
        ops::op_respond,
        ops::op_wait_until_begun,
        ops::op_wait_until_over,
    ],
    lazy_loaded_js = [
        dir "js",
        "async_hooks_module.js",
        "body.js",
        "events.js",
        "extras.js",
        "fetch.js",
        "globals.js",
        "invocation.js",
        "kv.js",
        "main.js",
        "workers_module.js",
    ],
    synthetic_esm = [
        "cloudflare:workers" = "ext:atoll/workers_module.js",
        "node:async_hooks" = "ext:atoll/async_hooks_module.js"
    ],
);

/// Ops of Deno's crates that reach past the host's gate, or across isolates of a process.
const CLOSED: &[&str] = &[
    "op_fetch",
    "op_fetch_send",
    "op_fetch_custom_client",
    "op_lock_manager_request",
    "op_lock_manager_await_lock",
    "op_lock_manager_await_steal",
    "op_lock_manager_is_stolen",
    "op_lock_manager_cancel",
    "op_lock_manager_release",
    "op_lock_manager_query",
    "op_broadcast_subscribe",
    "op_broadcast_send",
];

fn close_gates(mut extension: Extension) -> Extension {
    extension.middleware_fn =
        Some(Box::new(|op: OpDecl| if CLOSED.contains(&op.name) { op.disable() } else { op }));
    extension
}

/// Every extension, in the order that the snapshot was made with.
pub(crate) fn extensions() -> Vec<Extension> {
    vec![
        deno_webidl::deno_webidl::init(),
        close_gates(deno_web::deno_web::init(
            std::sync::Arc::new(deno_web::BlobStore::default()),
            None,
            false,
            deno_web::InMemoryBroadcastChannel::default(),
        )),
        deno_crypto::deno_crypto::init(None),
        deno_net::init(),
        close_gates(deno_fetch::deno_fetch::init(deno_fetch::Options::default())),
        atoll::init(),
    ]
}
