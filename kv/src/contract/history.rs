//! What concurrent readers may see of a key that changes beneath them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Subject, key, namespace};
use crate::entry::PutOptions;
use crate::store::KvStore;

const KEYS: usize = 3;
const READERS: usize = 4;
const ROUNDS: u64 = 60;

/// The newest round of one key that anyone wrote and was told of.
type Acknowledged = [AtomicU64; KEYS];

/// On one node, a read that begins after an acknowledgement sees that write or a later one, and no
/// read sees an older value than one that ended before it.
pub async fn reads_never_go_back(subject: Subject) {
    let acknowledged = Arc::new(Acknowledged::default());
    let done = Arc::new(AtomicBool::new(false));
    // Readers share what they have seen: going back is a fault also from one reader to another.
    let seen = Arc::new(Acknowledged::default());
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let store = subject.store.clone();
            let (done, seen, acknowledged) = (done.clone(), seen.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut index = reader;
                while !done.load(Ordering::SeqCst) {
                    index = (index + 1) % KEYS;
                    check_read(&*store, index, &acknowledged, &seen).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        for (index, newest) in acknowledged.iter().enumerate() {
            let key = key(&index.to_string());
            let put = subject.store.put(
                &namespace(1),
                &key,
                round.to_string().into(),
                PutOptions::default(),
            );
            put.await.expect("the store takes a good write");
            newest.store(round, Ordering::SeqCst);
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("a reader saw the past");
    }
}

async fn check_read(
    store: &dyn KvStore,
    index: usize,
    acknowledged: &Acknowledged,
    seen: &Acknowledged,
) {
    let floor = acknowledged[index].load(Ordering::SeqCst).max(seen[index].load(Ordering::SeqCst));
    let found = store.get(&namespace(1), &key(&index.to_string())).await;
    let entry = found.expect("the store answers a good read");
    let round = entry.map_or(0, |entry| {
        let text = std::str::from_utf8(&entry.value).expect("rounds are text");
        text.parse().expect("rounds are numbers")
    });
    assert!(round >= floor, "key {index} was at {floor} and is back at {round}");
    seen[index].fetch_max(round, Ordering::SeqCst);
}
