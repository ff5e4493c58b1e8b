//! The contract of logs on real NATS servers, each case with one of its own.

#![allow(clippy::unwrap_used, reason = "a test's own functions are tests too")]

use std::sync::Arc;
use std::time::Duration;

use atoll_kv::contract::log::LogSubject;
use atoll_kv::contract::nats::NatsServers;
use atoll_kv::log::{
    Append, Connectivity, LogError, LogOptions, NatsConnection, NatsError, NatsOptions,
};
use futures_util::StreamExt;

async fn open() -> LogSubject {
    let servers = NatsServers::start(1);
    let connection = NatsConnection::connect(servers.options("case")).await.unwrap();
    LogSubject { engine: Arc::new(connection), keep: Box::new(servers) }
}

atoll_kv::log_contract!(open);

/// Messages reach who listens, requests are answered, and silence has a bound.
#[tokio::test]
async fn messages_pass_between_nodes() {
    let servers = NatsServers::start(1);
    let connect = || async { NatsConnection::connect(servers.options("case")).await.unwrap() };
    let (here, there) = (connect().await, connect().await);
    here.connectivity().wait_for(|state| *state == Connectivity::Connected).await.unwrap();
    there.connectivity().wait_for(|state| *state == Connectivity::Connected).await.unwrap();
    let absent = here.request("nodes.b", "?".into(), Duration::from_secs(5)).await;
    assert!(matches!(absent, Err(NatsError::NoResponders(_))), "{absent:?}");

    let mut inbox = there.subscribe("nodes.*").await.unwrap();
    let answer = async {
        let message = inbox.next().await.unwrap();
        assert_eq!((&*message.subject, &*message.payload), ("nodes.b", &b"ping"[..]));
        assert!(message.wants_answer());
        message.answer("pong".into()).await.unwrap();
    };
    let ask = async {
        // The other's subscription takes a moment to reach the server.
        loop {
            match here.request("nodes.b", "ping".into(), Duration::from_secs(5)).await {
                Err(NatsError::NoResponders(_)) => tokio::task::yield_now().await,
                result => break result.unwrap(),
            }
        }
    };
    let ((), answered) = tokio::join!(answer, ask);
    assert_eq!(answered, "pong");
    here.publish("nodes.c", "all".into()).await.unwrap();
    let message = inbox.next().await.unwrap();
    assert_eq!((&*message.subject, message.wants_answer()), ("nodes.c", false));
}

/// Without a server every operation is refused within its bound, and nothing is sent later.
#[tokio::test]
async fn an_absent_server_is_told_in_time() {
    let options = NatsOptions { urls: vec!["nats://127.0.0.1:1".into()], ..NatsOptions::default() };
    let connection = NatsConnection::connect(options).await.unwrap();
    let append_timeout = Duration::from_millis(200);
    let log = connection.log("test", LogOptions { append_timeout, ..LogOptions::default() });
    let refused = |error| assert!(matches!(error, LogError::Unavailable(_)), "{error:?}");
    refused(log.append(Append::new("a", "x")).await.unwrap_err());
    refused(log.state().await.unwrap_err());
    refused(log.read(1).await.unwrap_err());
    let sent = connection.publish("nodes.a", "x".into()).await;
    assert!(matches!(sent, Err(NatsError::Disconnected)));
    assert!(matches!(*log.connectivity().borrow(), Connectivity::Disconnected { .. }));
}
