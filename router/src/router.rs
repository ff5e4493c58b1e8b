//! The table in use: a snapshot that is swapped whole and read without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::table::RouteTable;

/// The route table in use, shared by every thread. Clones refer to the same table.
#[derive(Debug)]
pub struct Router<T> {
    table: Arc<ArcSwap<RouteTable<T>>>,
}

impl<T> Router<T> {
    /// A router that starts with this table.
    pub fn new(table: RouteTable<T>) -> Self {
        Self { table: Arc::new(ArcSwap::from_pointee(table)) }
    }

    /// Puts a new table into use. Requests that are being matched finish on the old one.
    pub fn swap(&self, table: RouteTable<T>) {
        self.table.store(Arc::new(table));
    }

    /// The table in use. The guard is cheap and short-lived: clone the target out of it.
    pub fn load(&self) -> Guard<Arc<RouteTable<T>>> {
        self.table.load()
    }
}

impl<T> Clone for Router<T> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<T: Clone> Default for Router<T> {
    fn default() -> Self {
        Self::new(RouteTable::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Scheme;
    use crate::table::Match;

    #[test]
    fn a_swap_is_seen_and_an_old_snapshot_stays_whole() {
        let router = Router::<u32>::default();
        let old = router.load();
        let other = router.clone();
        let mut changes = old.change();
        changes.insert("a.b/*", Some(1)).unwrap();
        other.swap(changes.done());
        assert_eq!(old.match_url(Scheme::Http, "a.b", "/"), Match::None);
        assert_eq!(router.load().match_url(Scheme::Http, "a.b", "/"), Match::Target(&1));
    }
}
