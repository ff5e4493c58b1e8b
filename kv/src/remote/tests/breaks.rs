//! Links that break, peers that break the rules, and more work than a link takes.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{join_all, pending};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::frame::{FRAME_BYTES_MAX, Frame, write_frames};
use super::super::message::{Request, Response};
use super::*;

/// A store that holds operations up: puts for ever, gets for a while.
#[derive(Default)]
struct SlowStore {
    gets: AtomicUsize,
    gets_at_once: Arc<AtomicUsize>,
    gets_at_once_peak: AtomicUsize,
    puts: AtomicUsize,
}

impl KvStore for SlowStore {
    fn get(&self, _: &NamespaceId, _: &Key) -> KvFuture<Option<Entry>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let at_once = self.gets_at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.gets_at_once_peak.fetch_max(at_once, Ordering::SeqCst);
        let gets_at_once = self.gets_at_once.clone();
        async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            gets_at_once.fetch_sub(1, Ordering::SeqCst);
            Ok(None)
        }
        .boxed()
    }

    fn put(&self, _: &NamespaceId, _: &Key, _: Bytes, _: PutOptions) -> KvFuture<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        pending().boxed()
    }

    fn get_many(&self, _: &NamespaceId, _: Vec<Key>) -> KvFuture<Vec<Option<Entry>>> {
        unimplemented!()
    }

    fn delete(&self, _: &NamespaceId, _: &Key) -> KvFuture<()> {
        unimplemented!()
    }

    fn write_bulk(&self, _: &NamespaceId, _: Vec<BulkWrite>) -> KvFuture<()> {
        unimplemented!()
    }

    fn delete_bulk(&self, _: &NamespaceId, _: Vec<Key>) -> KvFuture<()> {
        unimplemented!()
    }

    fn list(&self, _: &NamespaceId, _: ListOptions) -> KvFuture<ListPage> {
        unimplemented!()
    }

    fn drop_namespace(&self, _: &NamespaceId) -> KvFuture<()> {
        unimplemented!()
    }
}

/// The stream is cut while many writes are under way: what was acknowledged is stored, the rest is
/// reported, and nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_loses_no_acknowledged_write() {
    const WRITERS: usize = 32;
    for acknowledged_max in [0, 1, 40, 200] {
        let node = Node::new();
        let (store, serving) = node.connect();
        let serving = Arc::new(serving);
        let count = Arc::new(AtomicUsize::new(0));
        let writers = (0..WRITERS).map(|writer| {
            let (store, serving, count) = (store.clone(), serving.clone(), count.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for round in 0.. {
                    let name = format!("{writer}-{round}");
                    let write = put(&store, &name, name.repeat(1000));
                    if count.load(Ordering::SeqCst) >= acknowledged_max {
                        serving.abort();
                    }
                    match write.await {
                        Ok(()) => acknowledged.push(name),
                        Err(KvError::Closed) => break,
                        Err(error) => panic!("{error}"),
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                }
                acknowledged
            })
        });
        for writer in join_all(writers).await {
            for name in writer.unwrap() {
                assert_eq!(text(&node.store, &name).await, Some(name.repeat(1000)));
            }
        }
        assert!(matches!(get(&store, "later").await, Err(KvError::Closed)));
        assert_eq!(store.stats().in_flight, 0);
    }
}

#[tokio::test]
async fn dropping_the_store_does_not_undo_what_is_under_way() {
    let node = Node::new();
    let (store, serving) = node.connect();
    let writes: Vec<_> = (0..100).map(|index| put(&store, &index.to_string(), "v")).collect();
    drop(store);
    for write in writes {
        write.await.unwrap();
    }
    serving.await.unwrap();
    assert_eq!(text(&node.store, "99").await.as_deref(), Some("v"));
}

/// Sends bytes to a served store and returns whether its end hangs up without an answer.
async fn hangs_up(store: &Arc<SlowStore>, bytes: &[u8]) -> bool {
    let (mut near, far) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve_remote(store.clone(), far, ServeOptions::default()));
    // The other end may hang up before it has read all.
    let _ = near.write_all(bytes).await;
    let _ = near.shutdown().await;
    let mut answer = Vec::new();
    let answered = near.read_to_end(&mut answer).await;
    serving.await.unwrap();
    answered.is_err() || answer.is_empty()
}

async fn encoded(request: &Request, values: Vec<Bytes>) -> Vec<u8> {
    let (frames, queue) = tokio::sync::mpsc::unbounded_channel();
    let _ = frames.send((Frame::new(request, values), ()));
    drop(frames);
    let (near, mut far) = UnixStream::pair().unwrap();
    let (written, mut bytes) = (write_frames(near, queue), Vec::new());
    let (written, read) = tokio::join!(written, far.read_to_end(&mut bytes));
    written.unwrap();
    read.unwrap();
    bytes
}

fn request(call: Call) -> Request {
    Request { id: 1, namespace: namespace(1), call }
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_loses_its_link() {
    let store = Arc::new(SlowStore::default());
    let get = encoded(&request(Call::Get(key("a"))), vec![]).await;
    assert!(!hangs_up(&store, &get).await, "this one is as it should be");
    let prefix = |frame: usize, header: usize| {
        [(frame as u32).to_le_bytes(), (header as u32).to_le_bytes()].concat()
    };
    let bad_key = {
        let mut bytes = get.clone();
        let last = bytes.len() - 1;
        bytes[last] = b'.';
        bytes
    };
    let bulk = Call::WriteBulk(split_writes(vec![pair("abc")]).0);
    let cases: [(&str, Vec<u8>); 10] = [
        ("too large", prefix(FRAME_BYTES_MAX + 1, 1)),
        ("largest and cut", prefix(FRAME_BYTES_MAX, 1)),
        ("header passes the end", prefix(4, 5)),
        ("no header", prefix(0, 0)),
        ("no msgpack", [prefix(4, 4), vec![0xc1; 4]].concat()),
        ("other msgpack", [prefix(4, 4), vec![1; 4]].concat()),
        ("cut", get[..get.len() - 1].to_vec()),
        ("a key that is none", bad_key),
        ("values nobody wants", encoded(&request(Call::Get(key("a"))), vec!["v".into()]).await),
        ("values that are missing", encoded(&request(bulk), vec!["ab".into()]).await),
    ];
    let gets = store.gets.load(Ordering::SeqCst);
    for (name, bytes) in cases {
        assert!(hangs_up(&store, &bytes).await, "{name}");
    }
    assert_eq!(store.gets.load(Ordering::SeqCst), gets);
}

fn pair(value: &'static str) -> BulkWrite {
    BulkWrite { key: key("a"), value: value.into(), options: PutOptions::default() }
}

#[tokio::test]
async fn an_answering_end_that_breaks_the_rules_is_left() {
    let check = async |name: &str, response: Response| {
        let (near, far) = UnixStream::pair().unwrap();
        let store = RemoteStore::new(near, RemoteOptions::default());
        let read = get(&store, "a");
        let (frames, queue) = tokio::sync::mpsc::unbounded_channel();
        let _ = frames.send((Frame::new(&response, vec!["v".into()]), ()));
        let writing = tokio::spawn(write_frames(far, queue));
        let error = read.await.expect_err(name);
        drop(frames);
        writing.await.unwrap().unwrap();
        error
    };
    let unasked = check("unasked", Response { id: 7, answer: Ok(Answer::Done) }).await;
    assert!(matches!(unasked, KvError::Closed), "{unasked}");
    let other = check("of another operation", Response { id: 0, answer: Ok(Answer::Done) }).await;
    assert!(matches!(other, KvError::Storage { .. }), "{other}");
}

#[tokio::test]
async fn what_a_link_does_not_take_is_refused() {
    let slow = Arc::new(SlowStore::default());
    let options = RemoteOptions { in_flight_max: 2, ..RemoteOptions::default() };
    let (store, _serving) = connect(slow.clone(), options);
    let _under_way = [put(&store, "a", "v"), put(&store, "b", "v")];
    assert!(matches!(put(&store, "c", "v").await, Err(KvError::Overloaded)));
    assert_eq!((store.stats().in_flight, store.stats().overloaded), (2, 1));

    let (near, _unread) = UnixStream::pair().unwrap();
    let options = RemoteOptions { queue_bytes_max: 1000, ..RemoteOptions::default() };
    let store = RemoteStore::new(near, options);
    let _under_way = put(&store, "a", vec![0; 8 * 1024 * 1024]);
    assert!(matches!(put(&store, "b", "v").await, Err(KvError::Overloaded)));
}

#[tokio::test]
async fn the_answering_end_bounds_what_is_under_way() {
    let slow = Arc::new(SlowStore::default());
    let (near, far) = UnixStream::pair().unwrap();
    let options = ServeOptions { reads_max: 4, ..ServeOptions::default() };
    tokio::spawn(serve_remote(slow.clone(), far, options));
    let store = RemoteStore::new(near, RemoteOptions::default());
    let reads = (0..100).map(|index| get(&store, &index.to_string()));
    for read in join_all(reads).await {
        assert_eq!(read.unwrap(), None);
    }
    assert_eq!(slow.gets.load(Ordering::SeqCst), 100);
    assert!(slow.gets_at_once_peak.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn errors_of_the_store_cross() {
    let node = Node::new();
    let (store, _serving) = node.connect();
    node.store.close().await;
    for _ in 0..2 {
        assert!(matches!(put(&store, "a", "v").await, Err(KvError::Closed)));
    }
}
