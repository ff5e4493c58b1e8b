//! The namespaces of a database by id, in memory. A namespace's rows carry a number of its own that
//! is never used again, so that dropping a namespace is one update and a cached entry of it can
//! never be found again.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::key::NamespaceId;

/// A namespace's number in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NamespaceRow(pub(super) i64);

/// What a batch of writes did to namespaces: their new number, or none if dropped.
pub(super) type NamespaceChanges = HashMap<NamespaceId, Option<NamespaceRow>>;

pub(super) struct Namespaces(RwLock<HashMap<NamespaceId, NamespaceRow>>);

impl Namespaces {
    pub(super) fn new(rows: HashMap<NamespaceId, NamespaceRow>) -> Self {
        Self(RwLock::new(rows))
    }

    pub(super) fn find(&self, id: &NamespaceId) -> Option<NamespaceRow> {
        // A map that a panic left behind is still a map.
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// All ids in their order.
    pub(super) fn all(&self) -> Vec<NamespaceId> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = rows.keys().cloned().collect();
        ids.sort_unstable();
        ids
    }

    /// Shows committed changes to readers.
    pub(super) fn publish(&self, changes: NamespaceChanges) {
        if changes.is_empty() {
            return;
        }
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (id, row) in changes {
            match row {
                Some(row) => rows.insert(id, row),
                None => rows.remove(&id),
            };
        }
    }
}
