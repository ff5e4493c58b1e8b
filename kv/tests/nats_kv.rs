//! The key-value contract on replicas over real NATS servers, each case with one of its own.

#![allow(clippy::unwrap_used, reason = "a test's own functions are tests too")]

use std::sync::Arc;

use atoll_kv::contract::Subject;
use atoll_kv::contract::nats::NatsServers;
use atoll_kv::log::NatsConnection;
use atoll_kv::{ManualClock, ReplicatedOptions, ReplicatedStore, SqliteOptions};

async fn open(clock: Arc<ManualClock>) -> Subject {
    let servers = NatsServers::start(1);
    let connection = NatsConnection::connect(servers.options("case")).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let sqlite = SqliteOptions { clock: clock.clone(), ..SqliteOptions::default() };
    let options = ReplicatedOptions { sqlite, ..ReplicatedOptions::default() };
    let path = place.path().join("kv.sqlite");
    let store = ReplicatedStore::open(&connection, path, options).unwrap();
    Subject { store: Arc::new(store), clock, keep: Box::new((place, servers)) }
}

atoll_kv::kv_contract!(open);
