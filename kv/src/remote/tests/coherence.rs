//! Two caches on one store: after an acknowledgement nobody finds what was there before.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const KEYS: usize = 6;
const READERS: usize = 6;
const WRITES: u64 = 150;

/// Numbers that look random and follow from a seed.
struct Random(u64);

impl Random {
    /// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What is known of one key. Its writes are numbered from 1 and come one after the other; number 0
/// is the absence before them.
#[derive(Default)]
struct History {
    issued: AtomicU64,
    acknowledged: AtomicU64,
    /// The newest write that some read has shown.
    seen: AtomicU64,
}

impl History {
    /// Whether the write of this number is a delete, of which reads tell no number.
    fn deletes(seed: u64, write: u64) -> bool {
        write == 0 || Random(seed ^ write).next().is_multiple_of(4)
    }

    async fn check_read(&self, seed: u64, store: &dyn KvStore, name: &str) {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let floor = acknowledged.max(self.seen.load(Ordering::SeqCst));
        let found = text(store, name).await;
        let issued = self.issued.load(Ordering::SeqCst);
        let write = match &found {
            Some(number) => Some(number.parse().unwrap()).filter(|write| *write >= floor),
            None => (floor..=issued).find(|write| Self::deletes(seed, *write)),
        };
        let Some(write) = write else {
            panic!("seed {seed}: {name} shows {found:?} after {floor}, with {issued} issued");
        };
        self.seen.fetch_max(write, Ordering::SeqCst);
    }
}

async fn write_all(seed: u64, name: String, history: Arc<History>, clients: Vec<RemoteStore>) {
    let mut random = Random(seed ^ name.len() as u64);
    for write in 1..=WRITES {
        let store = &clients[random.below(clients.len())];
        history.issued.store(write, Ordering::SeqCst);
        if History::deletes(seed, write) {
            store.delete(&namespace(1), &key(&name)).await.unwrap();
        } else {
            put(store, &name, write.to_string()).await.unwrap();
        }
        history.acknowledged.store(write, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_client_sees_the_past() {
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let node = Node::new();
    let clients: Vec<_> = (0..2).map(|_| node.connect().0).collect();
    let histories: Vec<_> = (0..KEYS).map(|_| Arc::<History>::default()).collect();
    let done = Arc::new(AtomicBool::new(false));
    let name = |index: usize| "k".repeat(index + 1);
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (histories, clients) = (histories.clone(), clients.clone());
            let done = done.clone();
            let mut random = Random(seed.wrapping_add(reader as u64));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let index = random.below(KEYS);
                    let client = &clients[random.below(clients.len())];
                    histories[index].check_read(seed, client, &name(index)).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..KEYS)
        .map(|index| {
            let history = histories[index].clone();
            tokio::spawn(write_all(seed, name(index), history, clients.clone()))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    for client in clients {
        let stats = client.stats();
        assert!(stats.cache_hits > 0 && stats.cache_misses > 0, "{stats:?}");
    }
}

#[tokio::test]
async fn every_kind_of_write_reaches_the_other_cache() {
    let node = Node::new();
    let ((writer, _), (reader, _)) = (node.connect(), node.connect());
    let pair = |value: &'static str| BulkWrite {
        key: key("a"),
        value: value.into(),
        options: PutOptions::default(),
    };
    assert_eq!(text(&reader, "a").await, None);
    put(&writer, "a", "1").await.unwrap();
    assert_eq!(text(&reader, "a").await.as_deref(), Some("1"));
    writer.write_bulk(&namespace(1), vec![pair("2"), pair("3")]).await.unwrap();
    assert_eq!(text(&reader, "a").await.as_deref(), Some("3"));
    writer.delete(&namespace(1), &key("a")).await.unwrap();
    assert_eq!(text(&reader, "a").await, None);
    put(&node.store, "a", "4").await.unwrap();
    assert_eq!(text(&reader, "a").await.as_deref(), Some("4"));
    writer.delete_bulk(&namespace(1), vec![key("a")]).await.unwrap();
    assert_eq!(text(&reader, "a").await, None);
    put(&writer, "a", "5").await.unwrap();
    assert_eq!(text(&reader, "a").await.as_deref(), Some("5"));
    writer.drop_namespace(&namespace(1)).await.unwrap();
    assert_eq!(text(&reader, "a").await, None);
}
