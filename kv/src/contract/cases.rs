//! The contract case by case.

use bytes::Bytes;

use super::{START_S, Subject, key, namespace};
use crate::entry::{BulkWrite, Entry, PutOptions};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::limits::{
    BULK_BYTES_MAX, BULK_GET_BYTES_MAX, BULK_GET_KEYS_MAX, BULK_PAIRS_MAX, VALUE_BYTES_MAX,
};
use crate::list::{ListOptions, ListPage};
use crate::store::{KvFuture, KvStore};

const WRITTEN: &str = "the store takes a good write";
const READ: &str = "the store answers a good read";

fn plain() -> PutOptions {
    PutOptions::default()
}

fn expiring(ttl_s: i64) -> PutOptions {
    PutOptions { expiration_ttl: Some(ttl_s), ..plain() }
}

fn pair(name: &str, value: &str) -> BulkWrite {
    BulkWrite { key: key(name), value: Bytes::copy_from_slice(value.as_bytes()), options: plain() }
}

fn named(prefix: &str, limit: i64, cursor: Option<String>) -> ListOptions {
    ListOptions { prefix: Some(prefix.into()), limit: Some(limit), cursor }
}

async fn put(store: &dyn KvStore, namespace: &NamespaceId, name: &str, value: &str) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    store.put(namespace, &key(name), value, plain()).await.expect(WRITTEN);
}

async fn get(store: &dyn KvStore, namespace: &NamespaceId, name: &str) -> Option<Entry> {
    store.get(namespace, &key(name)).await.expect(READ)
}

async fn text(store: &dyn KvStore, namespace: &NamespaceId, name: &str) -> Option<String> {
    let entry = get(store, namespace, name).await?;
    Some(String::from_utf8(entry.value.to_vec()).expect("the test wrote text"))
}

async fn page(store: &dyn KvStore, options: ListOptions) -> ListPage {
    store.list(&namespace(1), options).await.expect(READ)
}

fn names(page: &ListPage) -> Vec<&str> {
    page.keys.iter().map(|key| &*key.name).collect()
}

/// Absent keys, unknown namespaces and deletes of nothing are no errors.
pub async fn what_is_absent_reads_as_none(subject: Subject) {
    let store = &*subject.store;
    for _ in 0..2 {
        assert_eq!(get(store, &namespace(1), "a").await, None);
        let found = store.get_many(&namespace(1), vec![key("a"), key("b")]).await;
        assert_eq!(found.expect(READ), [None, None]);
        let empty = ListPage { keys: vec![], list_complete: true, cursor: None };
        assert_eq!(page(store, ListOptions::default()).await, empty);
        store.delete(&namespace(1), &key("a")).await.expect(WRITTEN);
        store.drop_namespace(&namespace(1)).await.expect(WRITTEN);
        // The second round sees a namespace that exists.
        put(store, &namespace(1), "z", "").await;
        store.delete(&namespace(1), &key("z")).await.expect(WRITTEN);
    }
}

/// Every byte of key, value and metadata comes back, and so does the expiration.
pub async fn what_is_put_comes_back(subject: Subject) {
    let store = &*subject.store;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let values = [Bytes::new(), Bytes::from_static(b"text"), all_bytes.into()];
    let metadata = [None, Some("null"), Some("{\"a\": [1, \"\u{e9}\"]}")];
    let longest = "x".repeat(512);
    let names = ["a", "a/b", "...", "\u{0}", "\u{10ffff}\u{e9} %20?#", &longest];
    for (round, name) in names.into_iter().enumerate() {
        let value = values[round % values.len()].clone();
        let metadata = metadata[round / 2 % metadata.len()].map(Into::into);
        let options = PutOptions { metadata, expiration_ttl: Some(60), expiration: None };
        let expected = Entry {
            value: value.clone(),
            metadata: options.metadata.clone(),
            expiration: Some(START_S + 60),
        };
        store.put(&namespace(1), &key(name), value, options).await.expect(WRITTEN);
        assert_eq!(get(store, &namespace(1), name).await, Some(expected), "{name:?}");
    }
}

/// A put leaves nothing of what was there: value, metadata and expiration are the new ones.
pub async fn a_put_replaces_everything(subject: Subject) {
    let store = &*subject.store;
    let options = PutOptions { metadata: Some("1".into()), ..expiring(60) };
    store.put(&namespace(1), &key("a"), "long value".into(), options).await.expect(WRITTEN);
    put(store, &namespace(1), "a", "v").await;
    let expected = Entry { value: "v".into(), metadata: None, expiration: None };
    assert_eq!(get(store, &namespace(1), "a").await, Some(expected));
    let listed = page(store, ListOptions::default()).await;
    assert_eq!((listed.keys.len(), &listed.keys[0].metadata), (1, &None));
    assert_eq!(listed.keys[0].expiration, None);
}

/// A deleted key is gone from reads and lists; single and bulk.
pub async fn a_delete_removes(subject: Subject) {
    let store = &*subject.store;
    for name in ["a", "b", "c", "d"] {
        put(store, &namespace(1), name, "v").await;
    }
    store.delete(&namespace(1), &key("a")).await.expect(WRITTEN);
    let bulk = vec![key("c"), key("absent"), key("c"), key("d")];
    store.delete_bulk(&namespace(1), bulk).await.expect(WRITTEN);
    store.delete_bulk(&namespace(1), vec![]).await.expect(WRITTEN);
    assert_eq!(text(store, &namespace(1), "a").await, None);
    assert_eq!(names(&page(store, ListOptions::default()).await), ["b"]);
}

/// The same key in two namespaces is two keys.
pub async fn namespaces_are_apart(subject: Subject) {
    let store = &*subject.store;
    put(store, &namespace(1), "a", "one").await;
    put(store, &namespace(2), "a", "two").await;
    put(store, &namespace(2), "b", "two").await;
    assert_eq!(text(store, &namespace(1), "a").await.as_deref(), Some("one"));
    assert_eq!(text(store, &namespace(1), "b").await, None);
    assert_eq!(names(&page(store, ListOptions::default()).await), ["a"]);
    store.delete(&namespace(1), &key("a")).await.expect(WRITTEN);
    assert_eq!(text(store, &namespace(2), "a").await.as_deref(), Some("two"));
}

/// Every limit has its error, and a refused write changes nothing.
pub async fn broken_limits_are_refused(subject: Subject) {
    async fn check<T: std::fmt::Debug>(operation: KvFuture<T>, status: u16, text: &str) {
        let error = operation.await.expect_err(text);
        assert_eq!((error.status(), error.to_string().as_str()), (status, text));
    }
    let (store, ns) = (&*subject.store, namespace(1));
    put(store, &ns, "a", "kept").await;
    let refuse = |value, options| store.put(&ns, &key("a"), value, options);

    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    check(refuse(large, plain()), 413, "Value length of 26214401 exceeds limit of 26214400.").await;
    let metadata = Some(format!("\"{}\"", "x".repeat(1023)).into());
    let options = PutOptions { metadata, ..plain() };
    let message = "Metadata length of 1025 exceeds limit of 1024.";
    check(refuse(Bytes::new(), options), 413, message).await;
    let options = PutOptions { metadata: Some("nope".into()), ..plain() };
    check(refuse(Bytes::new(), options), 400, "Metadata must be valid JSON.").await;
    let message = "Invalid expiration_ttl of 59. Expiration TTL must be at least 60.";
    check(refuse(Bytes::new(), expiring(59)), 400, message).await;
    let options = PutOptions { expiration: Some(START_S as i64 + 59), ..plain() };
    let message = "Invalid expiration of 1700000059. Expiration times must be at least 60 seconds \
                   in the future.";
    check(refuse(Bytes::new(), options), 400, message).await;

    let message = "Invalid key_count_limit of 1001. Please specify an integer less than 1000.";
    check(store.list(&ns, named("", 1001, None)), 400, message).await;
    let message = "UTF-8 encoded length of 513 exceeds key length limit of 512.";
    check(store.list(&ns, named(&"x".repeat(513), 1, None)), 414, message).await;
    let bad_cursor = store.list(&ns, named("", 1, Some("?".into())));
    check(bad_cursor, 400, "invalid \"list keys\" cursor").await;

    let many = vec![key("a"); BULK_GET_KEYS_MAX + 1];
    check(store.get_many(&ns, many), 400, "You can request a maximum of 100 keys").await;
    check(store.get_many(&ns, vec![]), 400, "You must request a minimum of 1 key").await;
    let keys = vec![key("a"); BULK_PAIRS_MAX + 1];
    let message = "bulk request of 10001 keys exceeds limit of 10000";
    check(store.delete_bulk(&ns, keys), 413, message).await;
    let pairs = vec![pair("a", ""); BULK_PAIRS_MAX + 1];
    check(store.write_bulk(&ns, pairs), 413, message).await;
    let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
    let pairs = vec![BulkWrite { key: key("a"), value, options: plain() }; 4];
    let message =
        format!("bulk request of {} bytes exceeds limit of 104857600", BULK_BYTES_MAX + 4);
    check(store.write_bulk(&ns, pairs), 413, &message).await;

    assert_eq!(text(store, &ns, "a").await.as_deref(), Some("kept"));
}

/// An expired key is absent from every read from its second on, and can be written anew.
pub async fn keys_expire_by_the_clock(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    let at = PutOptions { expiration: Some(START_S as i64 + 100), ..plain() };
    store.put(&ns, &key("a"), "v".into(), at).await.expect(WRITTEN);
    store.put(&ns, &key("b"), "v".into(), expiring(200)).await.expect(WRITTEN);
    put(store, &ns, "c", "v").await;
    for (advance, expected) in
        [(0, &["a", "b", "c"][..]), (99, &["a", "b", "c"]), (1, &["b", "c"]), (100, &["c"])]
    {
        subject.clock.advance(advance);
        let keys = vec![key("a"), key("b"), key("c")];
        let found = store.get_many(&ns, keys.clone()).await.expect(READ);
        let there: Vec<&str> = keys
            .iter()
            .zip(&found)
            .filter_map(|(key, entry)| entry.is_some().then_some(key.as_str()))
            .collect();
        assert_eq!(there, expected);
        for (key, entry) in keys.iter().zip(found) {
            assert_eq!(store.get(&ns, key).await.expect(READ), entry);
        }
        assert_eq!(names(&page(store, ListOptions::default()).await), expected);
    }
    put(store, &ns, "a", "again").await;
    assert_eq!(text(store, &ns, "a").await.as_deref(), Some("again"));
}

/// Pages hold the keys in the order of their bytes, and the last says that it is.
pub async fn pages_follow_each_other(subject: Subject) {
    let store = &*subject.store;
    let sorted =
        ["\u{1}", "A", "a", "a\u{0}", "a/", "a/b", "a0", "aa", "b", "\u{e9}", "\u{10ffff}"];
    for name in sorted.iter().rev() {
        put(store, &namespace(1), name, "v").await;
    }
    put(store, &namespace(2), "aaa", "elsewhere").await;
    for prefix in ["", "a", "a/", "\u{e9}", "\u{10ffff}", "x", "\u{1}"] {
        let expected: Vec<_> = sorted.iter().filter(|name| name.starts_with(prefix)).collect();
        for limit in 1..=expected.len() + 1 {
            let mut found = Vec::new();
            let mut cursor = None;
            for rest in expected.chunks(limit) {
                let page = page(store, named(prefix, limit as i64, cursor)).await;
                assert_eq!(names(&page).len(), rest.len(), "{prefix:?} {limit}");
                assert_eq!(page.list_complete, found.len() + rest.len() == expected.len());
                assert_eq!(page.cursor.is_none(), page.list_complete);
                found.extend(page.keys.into_iter().map(|key| key.name));
                cursor = page.cursor;
            }
            let found: Vec<&str> = found.iter().map(|name| &**name).collect();
            assert!(found.iter().eq(expected.iter().copied()), "{prefix:?} {limit}: {found:?}");
        }
    }
}

/// A cursor works after its key and those around it are gone, and with another prefix.
pub async fn a_cursor_outlives_its_key(subject: Subject) {
    let store = &*subject.store;
    for name in ["a", "b", "c", "d"] {
        put(store, &namespace(1), name, "v").await;
    }
    let cursor = page(store, named("", 2, None)).await.cursor;
    for name in ["a", "b"] {
        store.delete(&namespace(1), &key(name)).await.expect(WRITTEN);
    }
    put(store, &namespace(1), "b\u{0}", "v").await;
    let next = page(store, named("", 3, cursor.clone())).await;
    assert_eq!((names(&next), next.list_complete), (vec!["b\u{0}", "c", "d"], true));
    assert_eq!(names(&page(store, named("d", 3, cursor.clone())).await), ["d"]);
    assert_eq!(names(&page(store, named("a", 3, cursor)).await), [""; 0]);
    assert_eq!(names(&page(store, named("", 1, Some(String::new()))).await), ["b\u{0}"]);
}

/// Of two pairs with one key, the later is stored.
pub async fn a_bulk_write_keeps_its_order(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    put(store, &ns, "a", "before").await;
    let pairs = vec![pair("a", "1"), pair("b", "1"), pair("a", "2")];
    store.write_bulk(&ns, pairs).await.expect(WRITTEN);
    store.write_bulk(&ns, vec![]).await.expect(WRITTEN);
    assert_eq!(text(store, &ns, "a").await.as_deref(), Some("2"));
    assert_eq!(text(store, &ns, "b").await.as_deref(), Some("1"));
}

/// One bad pair refuses the whole request.
pub async fn a_faulty_bulk_write_stores_nothing(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    let bad = BulkWrite { options: expiring(1), ..pair("c", "") };
    let result = store.write_bulk(&ns, vec![pair("a", "1"), bad, pair("b", "1")]).await;
    assert!(matches!(result, Err(KvError::TtlTooShort(1))));
    assert_eq!(names(&page(store, ListOptions::default()).await), [""; 0]);
}

/// A bulk read answers by position, also for keys named twice or absent.
pub async fn a_bulk_read_keeps_its_order(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    let pairs = (0..100).map(|n| pair(&n.to_string(), &n.to_string())).collect();
    store.write_bulk(&ns, pairs).await.expect(WRITTEN);
    let asked = ["7", "absent", "99", "7", "0"];
    let keys: Vec<Key> = asked.into_iter().map(key).collect();
    for _ in 0..2 {
        let found = store.get_many(&ns, keys.clone()).await.expect(READ);
        let found: Vec<_> =
            found.iter().map(|entry| entry.as_ref().map(|entry| &*entry.value)).collect();
        assert_eq!(found, [Some(&b"7"[..]), None, Some(b"99"), Some(b"7"), Some(b"0")]);
    }
    let all = (0..100).map(|n| key(&n.to_string())).collect();
    assert!(store.get_many(&ns, all).await.expect(READ).iter().all(Option::is_some));
}

/// A bulk read does not gather more than its limit, and says so.
pub async fn a_bulk_read_is_bounded(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    let half = Bytes::from(vec![7; BULK_GET_BYTES_MAX / 2]);
    for name in ["a", "b"] {
        store.put(&ns, &key(name), half.clone(), plain()).await.expect(WRITTEN);
    }
    put(store, &ns, "c", "x").await;
    let fits = store.get_many(&ns, vec![key("a"), key("b")]).await.expect(READ);
    assert_eq!(fits.iter().flatten().count(), 2);
    let result = store.get_many(&ns, vec![key("a"), key("c"), key("b")]).await;
    assert!(matches!(result, Err(KvError::BulkGetTooLarge)));
}

/// Nothing of a dropped namespace is left, for reads and for what is written after it.
pub async fn a_dropped_namespace_can_begin_again(subject: Subject) {
    let store = &*subject.store;
    for round in 0..3 {
        assert_eq!(names(&page(store, ListOptions::default()).await), [""; 0], "round {round}");
        assert_eq!(get(store, &namespace(1), "a").await, None);
        put(store, &namespace(1), "a", "v").await;
        put(store, &namespace(1), &format!("only {round}"), "v").await;
        put(store, &namespace(2), "a", "stays").await;
        assert!(get(store, &namespace(1), "a").await.is_some());
        store.drop_namespace(&namespace(1)).await.expect(WRITTEN);
        assert_eq!(text(store, &namespace(2), "a").await.as_deref(), Some("stays"));
    }
}

/// 25 MiB go in and come out.
pub async fn the_largest_value_comes_back(subject: Subject) {
    let (store, ns) = (&*subject.store, namespace(1));
    let value: Vec<u8> = (0..VALUE_BYTES_MAX).map(|index| (index % 251) as u8).collect();
    let value = Bytes::from(value);
    for _ in 0..2 {
        store.put(&ns, &key("a"), value.clone(), plain()).await.expect(WRITTEN);
        let found = get(store, &ns, "a").await.expect("it was just put");
        assert!(found.value == value);
    }
}
