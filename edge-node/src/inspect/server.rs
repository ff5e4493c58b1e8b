//! The server that debuggers look for: what can be debugged, and a WebSocket for each session. Its paths
//! and fields are those that Chrome's `chrome://inspect` expects of Node.js.

use std::net::IpAddr;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::debuggees::{Debuggees, Listed};
use super::session::{COMMAND_BYTES_MAX, serve};

/// Serves `debuggees`.
pub fn router(debuggees: Debuggees) -> Router {
    Router::new()
        .route("/json", get(list))
        .route("/json/list", get(list))
        .route("/json/version", get(version))
        .route("/ws/{id}", any(attach))
        .layer(from_fn(refuse_foreign_hosts))
        .with_state(debuggees)
}

/// A page of another site could otherwise let its own name lead here (DNS rebinding) and read the list.
async fn refuse_foreign_hosts(request: Request, next: Next) -> Response {
    match host(request.headers()) {
        Some(host) if is_local(host) => next.run(request).await,
        _ => (StatusCode::BAD_REQUEST, "the Host header must be localhost or an IP address\n")
            .into_response(),
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

fn is_local(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address = match bracketed {
        Some(name) => name.parse().is_ok_and(|address: IpAddr| address.is_ipv6()),
        None => name.parse().is_ok_and(|address: IpAddr| address.is_ipv4()),
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (address || name.eq_ignore_ascii_case("localhost"))
}

async fn version() -> Json<Value> {
    Json(json!({
        "Browser": concat!("atoll/", env!("CARGO_PKG_VERSION")),
        "Protocol-Version": "1.3",
    }))
}

async fn list(State(debuggees): State<Debuggees>, headers: HeaderMap) -> Json<Value> {
    let host = host(&headers).unwrap_or_default();
    Json(debuggees.list().iter().map(|listed| description(listed, host)).collect())
}

fn description(listed: &Listed, host: &str) -> Value {
    let Listed { id, worker, url } = listed;
    let frontend = "devtools://devtools/bundled/js_app.html?experiments=true&v8only=true&ws=";
    json!({
        "description": "atoll worker",
        "devtoolsFrontendUrl": format!("{frontend}{host}/ws/{id}"),
        "id": id,
        "title": worker.as_str(),
        "type": "node",
        "url": url,
        "webSocketDebuggerUrl": format!("ws://{host}/ws/{id}"),
    })
}

async fn attach(
    State(debuggees): State<Debuggees>,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(attached) = debuggees.attach(&id) else {
        return (StatusCode::NOT_FOUND, "no instance has this id: see /json/list\n")
            .into_response();
    };
    upgrade
        .max_message_size(COMMAND_BYTES_MAX)
        .max_frame_size(COMMAND_BYTES_MAX)
        .on_upgrade(move |socket| serve(socket, attached))
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_names_that_no_foreign_dns_can_give_are_local() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:9229", true),
            ("127.0.0.1:9229", true),
            ("192.168.1.5", true),
            ("[::1]", true),
            ("[::1]:9229", true),
            ("", false),
            ("::1", false),
            ("[localhost]", false),
            ("[127.0.0.1]", false),
            ("example.com", false),
            ("localhost.example.com:9229", false),
            ("127.0.0.1.example.com", false),
            ("127.0.0.1:evil", false),
            ("localhost:1@example.com", false),
        ] {
            assert_eq!(is_local(host), expected, "{host:?}");
        }
    }
}
