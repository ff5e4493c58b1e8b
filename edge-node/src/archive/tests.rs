//! Exports between single nodes and nodes of a cluster.

use std::path::Path;
use std::sync::Arc;

use atoll_kv::log::FakeLogs;
use atoll_kv::{
    Key, KvStore, NamespaceId, PutOptions, ReplicatedOptions, ReplicatedStore, SqliteOptions,
    SqliteStore,
};
use bytes::Bytes;
use tokio::runtime::Handle;

use super::*;
use crate::registry::{
    AccountId, Binding, Deploy, JoinOptions, NoFoundation, Registry, WorkerName, WorkerRef,
    test_version,
};

type Stores = (Registry, Arc<dyn KvStore>);

fn single(dir: &Path) -> Stores {
    let registry = Registry::open(dir).unwrap();
    registry.bootstrap().unwrap();
    let kv = SqliteStore::open(dir.join("kv.sqlite"), SqliteOptions::default()).unwrap();
    (registry, Arc::new(kv))
}

async fn clustered(dir: &Path, logs: &Arc<FakeLogs>) -> Stores {
    let (path, engine, runtime) = (dir.to_owned(), logs.clone(), Handle::current());
    let join = move || {
        Registry::join(&path, &*engine, &NoFoundation, JoinOptions::default(), runtime).unwrap()
    };
    let registry = tokio::task::spawn_blocking(join).await.unwrap();
    let options = ReplicatedOptions { shards: 2, ..ReplicatedOptions::default() };
    let kv = ReplicatedStore::open(&**logs, dir.join("cluster/kv.sqlite"), options).unwrap();
    (registry, Arc::new(kv))
}

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

/// Deploys a worker with a secret, and writes KV values of all kinds.
async fn fill((registry, kv): &Stores) -> (AccountId, NamespaceId) {
    let registry = registry.clone();
    let filled = tokio::task::spawn_blocking(move || {
        let account = registry.snapshot().subdomains[0].0.clone();
        let secret = Binding::SecretText { name: "S".into(), text: "hunter2".into() };
        let version = test_version(&account, "w", "code", vec![secret]);
        registry.add_version(version, Deploy::Now).unwrap();
        let worker = WorkerRef { account: account.clone(), worker: WorkerName::new("w") };
        registry.replace_routes(&worker, &["example.com/*".into()]).unwrap();
        let namespace = registry.create_namespace(&account, "t").unwrap();
        (account, namespace.id)
    });
    let (account, namespace) = filled.await.unwrap();
    for n in 0..1_500 {
        let options = PutOptions {
            metadata: (n % 3 == 0).then(|| format!("{{\"n\":{n}}}").into()),
            expiration_ttl: (n % 2 == 0).then_some(3_600),
            ..PutOptions::default()
        };
        let value = Bytes::from(format!("value {n}"));
        kv.put(&namespace, &key(&format!("key-{n}")), value, options).await.unwrap();
    }
    (account, namespace)
}

async fn check((registry, kv): &Stores, (account, namespace): &(AccountId, NamespaceId)) {
    let snapshot = registry.snapshot();
    assert_eq!(&snapshot.workers[0].worker.account, account);
    assert_eq!(snapshot.routes.len(), 1);
    let version = registry.version(&snapshot.workers[0].deployment.versions[0].0);
    let version = version.unwrap().unwrap();
    assert_eq!(version.modules[0].bytes, Bytes::from_static(b"code"));
    let opened =
        matches!(&version.bindings[0], Binding::SecretText { text, .. } if text == "hunter2");
    assert!(opened, "secrets open with the same key");
    for n in [0, 3, 1_499] {
        let entry = kv.get(namespace, &key(&format!("key-{n}"))).await.unwrap().unwrap();
        assert_eq!(entry.value, format!("value {n}"));
        assert_eq!(entry.metadata.is_some(), n % 3 == 0);
        assert_eq!(entry.expiration.is_some(), n % 2 == 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_moves_into_a_cluster_and_back() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let file = dirs[3].path().join("export");
    let logs = Arc::new(FakeLogs::new());
    let one = single(dirs[0].path());
    let filled = fill(&one).await;
    let moved = export(&one.0, &one.1, &file, MissingValue::Refuse).await.unwrap();
    assert_eq!((moved.modules, moved.keys), (2, 1_500));

    let give_key = |to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        std::fs::copy(dirs[0].path().join("node.key"), to.join("node.key")).unwrap();
    };
    give_key(dirs[1].path());
    let many = clustered(dirs[1].path(), &logs).await;
    let imported = import(&many.0, &many.1, &file).await.unwrap();
    assert_eq!(imported, moved);
    check(&many, &filled).await;
    let token = std::fs::read_to_string(dirs[1].path().join("root.token")).unwrap();
    assert_eq!(many.0.authenticate(&token).unwrap().unwrap().account, filled.0);
    let again = import(&many.0, &many.1, &file).await.unwrap_err();
    assert!(again.to_string().contains("empty data directory"), "{again}");

    let back = export(&many.0, &many.1, &file, MissingValue::Refuse).await.unwrap();
    assert_eq!((back.modules, back.keys), (2, 1_500));
    give_key(dirs[2].path());
    let alone = single(dirs[2].path());
    import(&alone.0, &alone.1, &file).await.unwrap();
    check(&alone, &filled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_or_of_another_key_changes_nothing() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let file = dirs[2].path().join("export");
    let one = single(dirs[0].path());
    fill(&one).await;
    export(&one.0, &one.1, &file, MissingValue::Refuse).await.unwrap();
    let other = single(dirs[1].path());
    let refused = import(&other.0, &other.1, &file).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::OtherKey), "{refused}");

    std::fs::remove_dir_all(dirs[1].path().join("kv.sqlite")).ok();
    drop(other);
    let key_dir = dirs[2].path().join("same");
    std::fs::create_dir(&key_dir).unwrap();
    std::fs::copy(dirs[0].path().join("node.key"), key_dir.join("node.key")).unwrap();
    let same = single(&key_dir);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..100], &flipped, b"", b"something else"] {
        std::fs::write(&file, damaged).unwrap();
        let refused = import(&same.0, &same.1, &file).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::Damaged(_)), "{refused}");
        assert!(same.0.snapshot().workers.is_empty());
    }
    std::fs::write(&file, whole).unwrap();
    import(&same.0, &same.1, &file).await.unwrap();
}
