//! Live tails over a real socket.

use atoll_isolate::Outcome;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::registry::{VersionId, WorkerName, WorkerRef};
use crate::report::{Event, InvocationReport};

fn report(client: &Client, outcome: Outcome) -> InvocationReport {
    InvocationReport {
        id: "0".into(),
        worker: WorkerRef { account: client.account.clone(), worker: WorkerName::new("w") },
        version: VersionId::new("v"),
        event: Event::Scheduled { cron: "* * * * *".into(), scheduled_ms: 7 },
        outcome,
        exceptions: Vec::new(),
        logs: Vec::new(),
        started_ms: 1,
        cpu_us: 0,
        wall_us: 0,
    }
}

async fn connect(
    address: std::net::SocketAddr,
    url: &str,
) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request =
        url.replace("node.test:8787", &address.to_string()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "trace-v1".parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, response) =
        tokio_tungstenite::client_async(request, stream).await.map_err(|e| e.to_string())?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "trace-v1");
    Ok(socket)
}

#[tokio::test]
async fn a_tail_shows_what_its_filters_let_through() {
    let node = node();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, node.router.clone(), stopped));

    let path = "A/workers/scripts/w/tails";
    assert_eq!(node.a.fault(Method::POST, path, json!({ "filters": [] })).await.0, 10_007);
    node.a.deploy("w", json!([])).await;
    let filters = json!({ "filters": [{ "outcome": ["exception"] }] });
    let tail = node.a.done(Method::POST, path, filters).await;
    let url = tail["url"].as_str().unwrap();
    let wrong = format!("{}{}", &url[..url.len() - 1], if url.ends_with('0') { '1' } else { '0' });
    assert!(connect(address, &wrong).await.unwrap_err().contains("403"));

    let mut socket = connect(address, url).await.unwrap();
    assert!(connect(address, url).await.is_err(), "a tail has one socket");
    // A text frame without a mask, as wrangler sends it.
    let hello = br#"{"debug":false}"#;
    let stream = socket.get_mut();
    stream.write_all(&[0x81, hello.len() as u8]).await.unwrap();
    stream.write_all(hello).await.unwrap();
    socket.send(Message::Ping("wrangler tail ping".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("wrangler tail ping".into()));

    node.hub.publish(report(&node.b, Outcome::Exception));
    node.hub.publish(report(&node.a, Outcome::Ok));
    node.hub.publish(report(&node.a, Outcome::Exception));
    let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(message["outcome"], "exception");
    assert_eq!(message["event"], json!({ "cron": "* * * * *", "scheduledTime": 7 }));

    let id = tail["id"].as_str().unwrap();
    node.b.done(Method::DELETE, &format!("{path}/{id}"), Value::Null).await;
    assert_eq!(node.a.get(path).await.as_array().unwrap().len(), 1);
    for _ in 0..2 {
        node.a.done(Method::DELETE, &format!("{path}/{id}"), Value::Null).await;
    }
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    drop(socket);
    stop.send(true).unwrap();
    server.await.unwrap();
}
