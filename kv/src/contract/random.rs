//! Random sequences of operations on a store and on the naive model, compared answer by answer.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, any};
use proptest::prop_oneof;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Subject, key};
use crate::entry::{BulkWrite, PutOptions};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::list::ListOptions;
use crate::model::MemoryStore;
use crate::store::KvStore;

/// Sequences that one run tries.
const SEQUENCES: u32 = 48;
/// Simpler sequences that are tried once one has failed.
const SIMPLER_MAX: usize = 500;
/// Operations of one sequence, at most.
const OPERATIONS_MAX: usize = 40;
/// Pages that one listing follows, at most; more would be a cursor that does not advance.
const PAGES_MAX: usize = 200;

#[derive(Debug, Clone)]
enum Operation {
    Put(BulkWrite),
    Delete(Key),
    WriteBulk(Vec<BulkWrite>),
    DeleteBulk(Vec<Key>),
    Get(Key),
    GetMany(Vec<Key>),
    List { prefix: String, limit: i64 },
    DropNamespace,
    Advance(u64),
}

/// Every answer to every operation equals the model's, errors and cursors included.
pub async fn random_operations_match_the_model(subject: Subject) {
    let model = MemoryStore::new(subject.clock.clone());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let sequences = vec(operation(), 1..=OPERATIONS_MAX);
    let mut pair = Pair { model, subject, played: 0 };
    for _ in 0..SEQUENCES {
        let mut tree = sequences.new_tree(&mut runner).expect("no strategy here rejects");
        let mut failure = pair.play(&tree.current()).await;
        if failure.is_none() {
            continue;
        }
        let mut more = tree.simplify();
        for _ in 0..SIMPLER_MAX {
            if !more {
                break;
            }
            let simpler = pair.play(&tree.current()).await;
            more = if simpler.is_some() { tree.simplify() } else { tree.complicate() };
            failure = simpler.or(failure);
        }
        panic!("{}", failure.unwrap_or_default());
    }
}

/// The store under test beside the model that knows the right answers.
struct Pair {
    model: MemoryStore,
    subject: Subject,
    played: u32,
}

impl Pair {
    /// Plays a sequence on both and describes the first answer that differs.
    async fn play(&mut self, operations: &[Operation]) -> Option<String> {
        // A namespace of its own makes each sequence begin with nothing.
        self.played += 1;
        let namespace = NamespaceId::parse(&format!("{:032x}", self.played)).expect("32 digits");
        let all = Operation::List { prefix: String::new(), limit: 1000 };
        for operation in operations.iter().chain([&all]) {
            if let Operation::Advance(seconds) = operation {
                self.subject.clock.advance(*seconds);
            }
            let expected = answer(&self.model, &namespace, operation).await;
            let found = answer(&*self.subject.store, &namespace, operation).await;
            if found != expected {
                return Some(format!(
                    "{operation:?}\nanswers {found:?}\n and not {expected:?}\nin {operations:#?}"
                ));
            }
        }
        None
    }
}

/// Applies an operation and renders its whole answer.
async fn answer(
    store: &dyn KvStore,
    namespace: &NamespaceId,
    operation: &Operation,
) -> Result<String, String> {
    let text = |error: KvError| error.to_string();
    match operation.clone() {
        Operation::Put(BulkWrite { key, value, options }) => {
            store.put(namespace, &key, value, options).await.map(|()| String::new())
        }
        Operation::Delete(key) => store.delete(namespace, &key).await.map(|()| String::new()),
        Operation::WriteBulk(writes) => {
            store.write_bulk(namespace, writes).await.map(|()| String::new())
        }
        Operation::DeleteBulk(keys) => {
            store.delete_bulk(namespace, keys).await.map(|()| String::new())
        }
        Operation::Get(key) => store.get(namespace, &key).await.map(|found| format!("{found:?}")),
        Operation::GetMany(keys) => {
            store.get_many(namespace, keys).await.map(|found| format!("{found:?}"))
        }
        Operation::List { prefix, limit } => pages(store, namespace, &prefix, limit).await,
        Operation::DropNamespace => store.drop_namespace(namespace).await.map(|()| String::new()),
        Operation::Advance(_) => Ok(String::new()),
    }
    .map_err(text)
}

async fn pages(
    store: &dyn KvStore,
    namespace: &NamespaceId,
    prefix: &str,
    limit: i64,
) -> Result<String, KvError> {
    let mut pages = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES_MAX {
        let prefix = Some(prefix.to_owned());
        let options = ListOptions { prefix, limit: Some(limit), cursor };
        let page = store.list(namespace, options).await?;
        cursor = page.cursor.clone();
        pages.push(page);
        if cursor.is_none() {
            return Ok(format!("{pages:?}"));
        }
    }
    panic!("{PAGES_MAX} pages and no end");
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => write().prop_map(Operation::Put),
        3 => name().prop_map(Operation::Delete),
        2 => vec(write(), 0..8).prop_map(Operation::WriteBulk),
        1 => vec(name(), 0..8).prop_map(Operation::DeleteBulk),
        4 => name().prop_map(Operation::Get),
        2 => vec(name(), 0..8).prop_map(Operation::GetMany),
        4 => ("[ab/é]{0,2}", 0i64..8)
            .prop_map(|(prefix, limit)| Operation::List { prefix, limit }),
        1 => Just(Operation::DropNamespace),
        2 => (0u64..90).prop_map(Operation::Advance),
    ]
}

/// Few enough names that operations meet on them.
fn name() -> impl Strategy<Value = Key> {
    "[ab/é]{1,3}".prop_map(|name| key(&name))
}

fn write() -> impl Strategy<Value = BulkWrite> {
    let metadata = option::of("[0-9]{1,3}|nope|\\[\"[a-z]{0,4}\"\\]");
    let options =
        (option::weighted(0.3, 50i64..200), metadata).prop_map(|(ttl, metadata)| PutOptions {
            expiration_ttl: ttl,
            expiration: None,
            metadata: metadata.map(|text| Arc::from(text.as_str())),
        });
    (name(), vec(any::<u8>(), 0..20), options).prop_map(|(key, value, options)| BulkWrite {
        key,
        value: Bytes::from(value),
        options,
    })
}
