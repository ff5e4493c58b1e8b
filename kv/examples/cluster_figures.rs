//! Figures of the replicated store over three NATS servers on this machine: puts, how soon another
//! node shows them, and how long a new node takes to hold a million keys. Takes the number of keys
//! as its argument.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_kv::contract::nats::NatsServers;
use atoll_kv::log::{NatsConnection, NatsOptions};
use atoll_kv::{
    BulkWrite, Health, Key, KvStore, NamespaceId, PutOptions, ReplicatedOptions, ReplicatedStore,
};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};

const KEYS: usize = 1_000_000;
const PUTS: usize = 1_000;
const CONCURRENT_PUTS: usize = 20_000;
const VALUE_BYTES: usize = 100;
const PREFIX: &str = "figures";
/// The argument that makes this program the new node.
const FOLLOW: &str = "follow";

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [command, urls @ ..] if command == FOLLOW => follow(urls).await,
        [keys] => measure(keys.parse()?).await,
        _ => measure(KEYS).await,
    }
}

async fn measure(keys: usize) -> Result<(), Failure> {
    let servers = NatsServers::start(3);
    let places = [tempfile::tempdir()?, tempfile::tempdir()?];
    let here = open(servers.options(PREFIX), places[0].path()).await?;
    let there = open(servers.options(PREFIX), places[1].path()).await?;
    for store in [&here, &there] {
        connected(store).await?;
    }
    println!("| what | figure |\n|---|---|");
    latency(&here).await?;
    throughput(&here).await?;
    visibility(&here, &there).await?;
    let began = Instant::now();
    for first in (0..keys).step_by(10_000) {
        let writes = (first..keys.min(first + 10_000)).map(pair).collect::<Result<_, Failure>>()?;
        here.write_bulk(&namespace()?, writes).await?;
    }
    let rate = keys as f64 / began.elapsed().as_secs_f64();
    println!("| bulk writes, both nodes following | {rate:.0} keys/s |");
    let urls = servers.options(PREFIX).urls;
    let ended = Command::new(std::env::current_exe()?).arg(FOLLOW).args(urls).status()?;
    if !ended.success() {
        return Err(format!("the new node ended with {ended}").into());
    }
    here.close().await;
    there.close().await;
    Ok(())
}

/// The part of the new node: how long it takes to hold everything, and what memory.
async fn follow(urls: &[String]) -> Result<(), Failure> {
    let place = tempfile::tempdir()?;
    let servers =
        NatsOptions { urls: urls.to_vec(), prefix: PREFIX.into(), ..NatsOptions::default() };
    let began = Instant::now();
    let store = open(servers, place.path()).await?;
    connected(&store).await?;
    let elapsed = began.elapsed().as_secs_f64();
    let records = store.stats().records;
    println!("| a new node holds {records} records after | {elapsed:.1} s |");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    println!("| its memory, at most | {} |", peak.trim());
    let bytes = std::fs::metadata(place.path().join("kv.sqlite"))?.len();
    println!("| its database | {} MiB |", bytes >> 20);
    store.close().await;
    Ok(())
}

async fn open(servers: NatsOptions, directory: &Path) -> Result<ReplicatedStore, Failure> {
    let connection = NatsConnection::connect(servers).await?;
    let options = ReplicatedOptions {
        check_interval: Duration::from_secs(1),
        write_timeout: Duration::from_secs(30),
        ..ReplicatedOptions::default()
    };
    Ok(ReplicatedStore::open(&connection, directory.join("kv.sqlite"), options)?)
}

async fn connected(store: &ReplicatedStore) -> Result<(), Failure> {
    store.health().wait_for(|health| *health == Health::Connected).await?;
    Ok(())
}

async fn latency(store: &ReplicatedStore) -> Result<(), Failure> {
    let mut times = Vec::new();
    for number in 0..PUTS {
        let BulkWrite { key, value, options } = pair(number)?;
        let began = Instant::now();
        store.put(&namespace()?, &key, value, options).await?;
        times.push(began.elapsed());
    }
    report("put, one after another", times);
    Ok(())
}

async fn throughput(store: &ReplicatedStore) -> Result<(), Failure> {
    let id = namespace()?;
    let began = Instant::now();
    stream::iter((0..CONCURRENT_PUTS).map(pair))
        .map_ok(|BulkWrite { key, value, options }| {
            let put = store.put(&id, &key, value, options);
            async move { Ok(put.await?) }
        })
        .try_buffer_unordered(256)
        .try_for_each(|()| std::future::ready(Ok::<(), Failure>(())))
        .await?;
    let rate = CONCURRENT_PUTS as f64 / began.elapsed().as_secs_f64();
    println!("| puts, 256 under way | {rate:.0}/s |");
    Ok(())
}

/// From the call of a put here to the first read there that finds it.
async fn visibility(here: &ReplicatedStore, there: &ReplicatedStore) -> Result<(), Failure> {
    let (id, key) = (namespace()?, Key::parse("seen")?);
    let mut times = Vec::new();
    for number in 0..PUTS {
        let value = Bytes::from(number.to_string());
        let began = Instant::now();
        let put = here.put(&id, &key, value.clone(), PutOptions::default());
        let seen = async {
            while there.get(&id, &key).await?.is_none_or(|entry| entry.value != value) {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            Ok::<_, Failure>(began.elapsed())
        };
        let (put, seen) = tokio::join!(put, seen);
        put?;
        times.push(seen?);
    }
    report("put here, seen there (looking each ~1 ms)", times);
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!("| {what} | p50 {:.2} ms, p99 {:.2} ms |", at(0.5), at(0.99));
}

fn namespace() -> Result<NamespaceId, Failure> {
    Ok(NamespaceId::parse("00000000000000000000000000000001")?)
}

fn pair(number: usize) -> Result<BulkWrite, Failure> {
    Ok(BulkWrite {
        key: Key::parse(&format!("key/{number:09}"))?,
        value: vec![b'v'; VALUE_BYTES].into(),
        options: PutOptions::default(),
    })
}
