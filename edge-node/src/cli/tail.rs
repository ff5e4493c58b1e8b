//! `atoll tail`: a worker's invocations as they happen, over the API's WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::api::Api;
use super::args::{TailArgs, TailFormat, TailStatus};
use super::client::{Body, segment, tls_config};
use super::error::CliError;
use super::session::Session;
use super::stop;
use super::terminal::{Terminal, printable};

/// The subprotocol that the node insists on.
const PROTOCOL: &str = "trace-v1";
/// How long the tail's socket may take to open.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Tail {
    id: String,
    url: String,
}

pub(crate) async fn run(session: &Session, args: TailArgs) -> Result<(), CliError> {
    let worker = session.worker(args.worker.clone(), &args.project)?;
    let terminal = session.terminal;
    let default = match terminal.is_interactive() && !terminal.json {
        true => TailFormat::Pretty,
        false => TailFormat::Json,
    };
    let format = args.format.unwrap_or(default);
    let api = session.api().await?;
    let path = api.script(&worker, "/tails");
    let body = Body::Json(json!({ "filters": filters(&args)? }));
    let tail: Tail = api.client.call(Method::POST, &path, body).await?;
    let stream = tokio::time::timeout(CONNECT_WAIT_MAX, connect(&tail.url)).await;
    let stream = stream.unwrap_or_else(|_| {
        let url = &tail.url;
        Err(CliError::Failed(format!("the tail at {url} does not open: is the address reachable?")))
    })?;
    terminal.note(format!("watching {worker}; Ctrl-C ends it"));
    let outcome = follow(terminal, format, stream).await;
    end(&api, &worker, &tail.id).await;
    outcome
}

/// The node forgets a tail by itself when its socket closes: a failure here harms nobody.
async fn end(api: &Api, worker: &str, id: &str) {
    let path = api.script(worker, &format!("/tails/{}", segment(id)));
    let _ = api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await;
}

fn filters(args: &TailArgs) -> Result<Vec<Value>, CliError> {
    let mut filters = Vec::new();
    if let Some(rate) = args.sampling_rate {
        if !(0.0..=1.0).contains(&rate) {
            return Err(CliError::Usage("--sampling-rate is a share from 0 to 1".into()));
        }
        filters.push(json!({ "sampling_rate": rate }));
    }
    let outcomes: Vec<&str> = args
        .status
        .iter()
        .flat_map(|status| match status {
            TailStatus::Ok => &["ok"][..],
            TailStatus::Error => &["exception", "exceededCpu", "exceededMemory", "unknown"],
            TailStatus::Canceled => &["canceled"],
        })
        .copied()
        .collect();
    if !outcomes.is_empty() {
        filters.push(json!({ "outcome": outcomes }));
    }
    if !args.method.is_empty() {
        let methods = args.method.iter().map(|m| m.to_ascii_uppercase());
        filters.push(json!({ "method": methods.collect::<Vec<_>>() }));
    }
    if let Some(text) = &args.search {
        filters.push(json!({ "query": text }));
    }
    Ok(filters)
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(url: &str) -> Result<WebSocketStream<Box<dyn Stream>>, CliError> {
    let failed = |reason: String| {
        CliError::Failed(format!("cannot open the tail at {url}: {reason}; try again"))
    };
    let parsed = url::Url::parse(url).map_err(|e| failed(e.to_string()))?;
    let host = parsed.host_str().ok_or_else(|| failed("it names no host".into()))?;
    let port = parsed.port_or_known_default().unwrap_or(80);
    let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let tcp = tcp.map_err(|e| failed(e.to_string()))?;
    let stream: Box<dyn Stream> = match parsed.scheme() {
        "wss" => {
            let name = rustls_pki_types::ServerName::try_from(host.to_owned());
            let name = name.map_err(|e| failed(e.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls_config()));
            Box::new(connector.connect(name, tcp).await.map_err(|e| failed(e.to_string()))?)
        }
        _ => Box::new(tcp),
    };
    let mut request = url.into_client_request().map_err(|e| failed(e.to_string()))?;
    let protocol = HeaderValue::from_static(PROTOCOL);
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let connected = tokio_tungstenite::client_async(request, stream).await;
    connected.map(|(stream, _)| stream).map_err(|e| failed(e.to_string()))
}

async fn follow(
    terminal: Terminal,
    format: TailFormat,
    mut stream: WebSocketStream<Box<dyn Stream>>,
) -> Result<(), CliError> {
    let stop = stop::asked();
    tokio::pin!(stop);
    loop {
        let message = tokio::select! {
            () = &mut stop => {
                let _ = stream.close(None).await;
                return Ok(());
            }
            message = stream.next() => message,
        };
        let bytes = match message {
            Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
            Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
            Some(Ok(Message::Ping(payload))) => {
                let _ = stream.send(Message::Pong(payload)).await;
                continue;
            }
            Some(Ok(Message::Close(_))) | None => {
                return Err(CliError::Failed("the node ended the tail: start it again".into()));
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                return Err(CliError::Failed(format!(
                    "the tail broke off ({error}): start it again"
                )));
            }
        };
        let Ok(event) = serde_json::from_slice::<Value>(&bytes) else { continue };
        match format {
            TailFormat::Json => terminal.line(event.to_string()),
            TailFormat::Pretty => terminal.line(pretty(terminal, &event)),
        }
    }
}

fn pretty(terminal: Terminal, message: &Value) -> String {
    let event = &message["event"];
    let text =
        |value: &Value| printable(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let subject = match (event["request"].is_object(), event["cron"].as_str()) {
        (true, _) => {
            let method = text(&event["request"]["method"]);
            let status = event["response"]["status"].as_u64();
            let status = status.map(|s| format!(" {s}")).unwrap_or_default();
            let rule = if event["type"] == "rule" { "rule " } else { "" };
            format!("{rule}{} {}{status}", terminal.bold(&method), text(&event["request"]["url"]))
        }
        (false, Some(cron)) => format!("{} {cron}", terminal.bold("scheduled")),
        (false, None) => event["type"].as_str().unwrap_or("event").to_owned(),
    };
    let outcome = match message["outcome"].as_str() {
        Some("ok") => terminal.green("ok"),
        other => terminal.red(other.unwrap_or("unknown")),
    };
    let mut lines = vec![format!("{subject} {outcome}")];
    for log in message["logs"].as_array().into_iter().flatten() {
        let parts = log["message"].as_array().cloned().unwrap_or_default();
        let parts: Vec<_> = parts.iter().map(text).collect();
        lines.push(format!("  {} {}", terminal.dim(&text(&log["level"])), parts.join(" ")));
    }
    for exception in message["exceptions"].as_array().into_iter().flatten() {
        let (name, reason) = (text(&exception["name"]), text(&exception["message"]));
        lines.push(format!("  {} {name}: {reason}", terminal.red("uncaught")));
        let frames = text(&exception["stack"]);
        let frames = frames.lines().filter(|l| l.trim_start().starts_with("at "));
        lines.extend(frames.map(|frame| terminal.dim(&format!("    {}", frame.trim()))));
    }
    lines.join("\n")
}
