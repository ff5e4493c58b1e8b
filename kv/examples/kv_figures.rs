//! Figures of the key-value store on this machine: durable puts, reads from memory and from the
//! database, the same over a link, and pages over a million keys. Takes a directory for the database as its argument.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_kv::{
    BulkWrite, EpochReader, Epochs, Key, KvStore, ListOptions, NamespaceId, PutOptions,
    RemoteOptions, RemoteStore, ServeOptions, SqliteOptions, SqliteStore, serve_remote,
};
use bytes::Bytes;
use tokio::net::UnixStream;

const PUT_TIME: Duration = Duration::from_secs(3);
const READS: usize = 200_000;
const LISTED_KEYS: usize = 1_000_000;
const VALUE_BYTES: usize = 256;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join(format!("kv_figures-{}.sqlite", std::process::id()));
    let result = measure(&path).await;
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut file = path.clone().into_os_string();
        file.push(suffix);
        // Some of them are gone already.
        let _ = std::fs::remove_file(file);
    }
    result
}

async fn measure(path: &PathBuf) -> Result<(), Failure> {
    let namespace = NamespaceId::parse("00000000000000000000000000000001")?;
    let epochs = Arc::new(Epochs::new()?);
    let options = SqliteOptions { epochs: Some(epochs.clone()), ..SqliteOptions::default() };
    let store = SqliteStore::open(path, options)?;
    for writers in [1, 8, 64, 1024] {
        durable_puts(&store, &namespace, writers).await?;
    }
    reads(&store, &namespace, "get, from memory").await?;
    let remote = connect(&store, Some(&epochs))?;
    reads(&remote, &namespace, "get, from the memory of a link's near end").await?;
    let remote = connect(&store, None)?;
    reads(&remote, &namespace, "get, over a link, from the memory of its far end").await?;
    store.close().await;
    drop(store);

    let uncached = SqliteOptions { cache_bytes_max: 0, ..SqliteOptions::default() };
    let store = SqliteStore::open(path, uncached)?;
    reads(&store, &namespace, "get, from the database").await?;
    let remote = connect(&store, None)?;
    reads(&remote, &namespace, "get, over a link, from the database").await?;
    list_a_million(&store).await?;
    store.close().await;
    Ok(())
}

fn key(number: usize) -> Result<Key, Failure> {
    // Spread, so that neighbours in time are not neighbours in the tree.
    Ok(Key::parse(&format!("key/{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))?)
}

async fn durable_puts(
    store: &SqliteStore,
    namespace: &NamespaceId,
    writers: usize,
) -> Result<(), Failure> {
    let before = store.stats();
    let begun = Instant::now();
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let tasks = (0..writers).map(|writer| {
        let value = &value;
        async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < PUT_TIME {
                let key = key(latencies.len() * writers + writer)?;
                let started = Instant::now();
                store.put(namespace, &key, value.clone(), PutOptions::default()).await?;
                latencies.push(started.elapsed());
            }
            Ok::<_, Failure>(latencies)
        }
    });
    let mut latencies = Vec::new();
    for task in futures_util::future::join_all(tasks).await {
        latencies.extend(task?);
    }
    let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    let after = store.stats();
    let batch = (after.writes - before.writes) as f64 / (after.commits - before.commits) as f64;
    println!(
        "durable puts of {VALUE_BYTES} B, {writers} writers: {per_second:.0}/s, {}, \
         {batch:.1} a commit",
        percentiles(&mut latencies)
    );
    Ok(())
}

fn connect(store: &SqliteStore, epochs: Option<&Epochs>) -> Result<RemoteStore, Failure> {
    let (near, far) = UnixStream::pair()?;
    tokio::spawn(serve_remote(Arc::new(store.clone()), far, ServeOptions::default()));
    let epochs = epochs.map(|epochs| EpochReader::new(epochs.read_only()?)).transpose()?;
    Ok(RemoteStore::new(near, RemoteOptions { epochs, ..RemoteOptions::default() }))
}

async fn reads(store: &dyn KvStore, namespace: &NamespaceId, what: &str) -> Result<(), Failure> {
    let keys = (0..1000).map(key).collect::<Result<Vec<_>, _>>()?;
    for key in &keys {
        store.get(namespace, key).await?.ok_or("a key is missing")?;
    }
    let mut latencies = Vec::with_capacity(READS);
    for index in 0..READS {
        let started = Instant::now();
        let found = store.get(namespace, &keys[index % keys.len()]).await?;
        latencies.push(started.elapsed());
        found.ok_or("a key is missing")?;
    }
    println!("{what}: {}", percentiles(&mut latencies));
    Ok(())
}

async fn list_a_million(store: &SqliteStore) -> Result<(), Failure> {
    let namespace = NamespaceId::parse("00000000000000000000000000000002")?;
    let begun = Instant::now();
    let numbers: Vec<usize> = (0..LISTED_KEYS).collect();
    for chunk in numbers.chunks(10_000) {
        let writes = chunk
            .iter()
            .map(|number| {
                let value = Bytes::from_static(b"v");
                Ok(BulkWrite { key: key(*number)?, value, options: PutOptions::default() })
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        store.write_bulk(&namespace, writes).await?;
    }
    println!("bulk write of {LISTED_KEYS} keys: {:.1?}", begun.elapsed());

    let begun = Instant::now();
    let mut latencies = Vec::new();
    let mut keys = 0;
    let mut cursor = None;
    loop {
        let started = Instant::now();
        let page = store.list(&namespace, ListOptions { cursor, ..Default::default() }).await?;
        latencies.push(started.elapsed());
        keys += page.keys.len();
        cursor = page.cursor;
        if page.list_complete {
            break;
        }
    }
    println!(
        "list of {keys} keys: {:.1?}, a page {}",
        begun.elapsed(),
        percentiles(&mut latencies)
    );
    Ok(())
}

fn percentiles(latencies: &mut [Duration]) -> String {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    format!("p50 {:.1?} p99 {:.1?}", at(0.5), at(0.99))
}
