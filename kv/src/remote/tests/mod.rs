//! The contract over a link, what two caches on one store may show, and links that break.

mod breaks;
mod coherence;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::ManualClock;
use crate::contract::{START_S, Subject, key, namespace};
use crate::epochs::Epochs;
use crate::model::MemoryStore;
use crate::sqlite::{SqliteOptions, SqliteStore};

mod over_memory {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let memory = Arc::new(MemoryStore::new(clock.clone()));
        let options = RemoteOptions { clock: clock.clone(), ..RemoteOptions::default() };
        let store = Arc::new(connect(memory, options).0);
        Subject { store, clock, keep: Box::new(()) }
    }

    crate::kv_contract!(open);
}

mod over_sqlite {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let node = Node::open(clock.clone());
        let store = Arc::new(node.connect().0);
        Subject { store, clock, keep: Box::new(node) }
    }

    crate::kv_contract!(open);
}

/// A store that tells other processes what changes.
struct Node {
    store: SqliteStore,
    epochs: Arc<Epochs>,
    clock: Arc<ManualClock>,
    _place: TempDir,
}

impl Node {
    fn open(clock: Arc<ManualClock>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let epochs = Arc::new(Epochs::new().unwrap());
        let options = SqliteOptions {
            epochs: Some(epochs.clone()),
            clock: clock.clone(),
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open(place.path().join("kv.sqlite"), options).unwrap();
        Self { store, epochs, clock, _place: place }
    }

    fn new() -> Self {
        Self::open(Arc::new(ManualClock::new(START_S)))
    }

    fn connect(&self) -> (RemoteStore, JoinHandle<()>) {
        let epochs = EpochReader::new(self.epochs.read_only().unwrap()).unwrap();
        let options = RemoteOptions {
            epochs: Some(epochs),
            clock: self.clock.clone(),
            ..RemoteOptions::default()
        };
        connect(Arc::new(self.store.clone()), options)
    }
}

fn connect(store: Arc<dyn KvStore>, options: RemoteOptions) -> (RemoteStore, JoinHandle<()>) {
    let (near, far) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve_remote(store, far, ServeOptions::default()));
    (RemoteStore::new(near, options), serving)
}

fn put(store: &dyn KvStore, name: &str, value: impl Into<Bytes>) -> KvFuture<()> {
    store.put(&namespace(1), &key(name), value.into(), PutOptions::default())
}

fn get(store: &dyn KvStore, name: &str) -> KvFuture<Option<Entry>> {
    store.get(&namespace(1), &key(name))
}

async fn text(store: &dyn KvStore, name: &str) -> Option<String> {
    let entry = get(store, name).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test]
async fn a_cached_key_is_ready_at_once() {
    let node = Node::new();
    let (store, _serving) = node.connect();
    put(&store, "a", "v").await.unwrap();
    for name in ["a", "absent"] {
        let found = get(&store, name).await.unwrap();
        assert_eq!(get(&store, name).now_or_never().unwrap().unwrap(), found, "{name}");
    }
    let stats = store.stats();
    assert_eq!((stats.cache_hits, stats.cache_misses, stats.in_flight), (2, 2, 0));
}

#[tokio::test]
async fn a_cached_key_expires_by_the_clock() {
    let node = Node::new();
    let (store, _serving) = node.connect();
    let options = PutOptions { expiration_ttl: Some(60), ..PutOptions::default() };
    store.put(&namespace(1), &key("a"), "v".into(), options).await.unwrap();
    assert_eq!(text(&store, "a").await.as_deref(), Some("v"));
    node.clock.advance(59);
    assert!(get(&store, "a").now_or_never().unwrap().unwrap().is_some());
    node.clock.advance(1);
    assert!(get(&store, "a").now_or_never().unwrap().unwrap().is_none());
}

#[tokio::test]
async fn without_epochs_nothing_is_kept() {
    let memory = Arc::new(MemoryStore::new(Arc::new(ManualClock::new(START_S))));
    let (store, _serving) = connect(memory.clone(), RemoteOptions::default());
    put(&store, "a", "old").await.unwrap();
    assert_eq!(text(&store, "a").await.as_deref(), Some("old"));
    put(&*memory, "a", "new").await.unwrap();
    assert_eq!(text(&store, "a").await.as_deref(), Some("new"));
}
