//! What every `KvStore` must do, written once against the trait and run by the tests of each
//! implementation through `kv_contract!`.

mod cases;
mod history;
pub mod log;
pub mod nats;
mod random;

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

pub use cases::*;
pub use history::reads_never_go_back;
pub use random::random_operations_match_the_model;

use crate::clock::ManualClock;
use crate::key::{Key, NamespaceId};
use crate::store::KvStore;

/// When the clock of every case stands at first.
pub const START_S: u64 = 1_700_000_000;

/// A fresh store under test and the clock that it obeys.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn KvStore>,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    /// What must live as long as the store, such as its directory.
    pub keep: Box<dyn Any + Send>,
}

/// Makes the tests of the contract for one implementation. The argument is an
/// `async fn(Arc<ManualClock>) -> Subject`; the caller must depend on tokio.
#[macro_export]
macro_rules! kv_contract {
    ($open:path) => {
        $crate::kv_contract!(
            $open,
            what_is_absent_reads_as_none,
            what_is_put_comes_back,
            a_put_replaces_everything,
            a_delete_removes,
            namespaces_are_apart,
            broken_limits_are_refused,
            keys_expire_by_the_clock,
            pages_follow_each_other,
            a_cursor_outlives_its_key,
            a_bulk_write_keeps_its_order,
            a_faulty_bulk_write_stores_nothing,
            a_bulk_read_keeps_its_order,
            a_bulk_read_is_bounded,
            a_dropped_namespace_can_begin_again,
            the_largest_value_comes_back,
            reads_never_go_back,
            random_operations_match_the_model
        );
    };
    ($open:path, $($case:ident),+) => {
        $(
            #[test]
            fn $case() {
                $crate::contract::run($open, $crate::contract::$case);
            }
        )+
    };
}

/// Runs one case on a fresh store.
pub fn run<Open, Opened, Case, Done>(open: Open, case: Case)
where
    Open: FnOnce(Arc<ManualClock>) -> Opened,
    Opened: Future<Output = Subject>,
    Case: FnOnce(Subject) -> Done,
    Done: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test machine has threads");
    runtime.block_on(async { case(open(Arc::new(ManualClock::new(START_S))).await).await });
}

/// A namespace's id that ends in the digit `last`.
pub fn namespace(last: u8) -> NamespaceId {
    NamespaceId::parse(&format!("{last:032x}")).expect("32 hexadecimal digits are an id")
}

/// A key that the test knows to be good.
pub fn key(name: &str) -> Key {
    Key::parse(name).expect("the test names a good key")
}
