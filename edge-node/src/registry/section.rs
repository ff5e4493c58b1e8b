//! One kind of thing in a snapshot, in the order of whose they are. The next snapshot shares what has not changed,
//! so that a change costs what it changes, and a pointer for each of the others.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AccountId, LiveWorker, Route, Schedule, WorkerDocument, WorkerName, WorkerRef, WorkerRules,
};

/// Whose something is: a worker's, or an account's as such.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The account.
    pub account: AccountId,
    /// The worker's name, if it is a worker's.
    pub worker: Option<WorkerName>,
}

impl Owner {
    /// The worker, if it is one.
    pub fn worker(&self) -> Option<WorkerRef> {
        let worker = self.worker.clone()?;
        Some(WorkerRef { account: self.account.clone(), worker })
    }

    fn key(&self) -> OwnerKey<'_> {
        (&self.account, self.worker.as_ref())
    }
}

impl From<&WorkerRef> for Owner {
    fn from(of: &WorkerRef) -> Self {
        Self { account: of.account.clone(), worker: Some(of.worker.clone()) }
    }
}

/// An owner as it is compared.
type OwnerKey<'a> = (&'a AccountId, Option<&'a WorkerName>);

/// What belongs to somebody.
pub trait Owned {
    /// Whose it is, as it is compared.
    fn owner(&self) -> OwnerKey<'_>;
}

/// Everything of one kind that a snapshot has. Cheap to clone.
#[derive(Debug, PartialEq)]
pub struct Section<T>(Arc<[Arc<T>]>);

/// What owners have now in place of what they had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change<T>(BTreeMap<Owner, Vec<Arc<T>>>);

impl<T: Owned + PartialEq> Section<T> {
    /// What one owner has.
    pub fn of(&self, owner: &Owner) -> &[Arc<T>] {
        &self.0[self.range(owner)]
    }

    /// What an account and its workers have.
    pub fn of_account(&self, account: &AccountId) -> &[Arc<T>] {
        let begin = self.0.partition_point(|item| item.owner().0 < account);
        let rest = &self.0[begin..];
        &rest[..rest.partition_point(|item| item.owner().0 == account)]
    }

    /// Whether it is this very section: nothing has changed then.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What it has that an earlier one had not, and the other way around. What they share is not looked at.
    pub fn since(&self, before: &Self) -> Change<T> {
        let mut change = BTreeMap::new();
        if self.is(before) {
            return Change(change);
        }
        let (mut old, mut new) = (&before.0[..], &self.0[..]);
        loop {
            let pairs = old.iter().zip(new);
            let same = pairs.take_while(|(old, new)| Arc::ptr_eq(old, new)).count();
            let differ = [old.get(same), new.get(same)];
            let Some(owner) = differ.into_iter().flatten().map(|item| item.owner()).min() else {
                return Change(change);
            };
            // What an owner has is told whole.
            let shared = new[..same].iter().rev().take_while(|item| item.owner() == owner).count();
            let (of_old, of_new);
            (of_old, old) = split(&old[same - shared..], owner);
            (of_new, new) = split(&new[same - shared..], owner);
            if of_old != of_new {
                let (account, worker) = (owner.0.clone(), owner.1.cloned());
                change.insert(Owner { account, worker }, of_new.to_vec());
            }
        }
    }

    /// The section after a change. What the change leaves as it was is shared.
    pub(super) fn with(&self, change: Change<T>) -> Self {
        let differ = |(owner, items): (Owner, Vec<Arc<T>>)| {
            let range = self.range(&owner);
            (self.0[range.clone()] != items).then_some((range, items))
        };
        let changes: Vec<_> = change.0.into_iter().filter_map(differ).collect();
        if changes.is_empty() {
            return self.clone();
        }
        let more = changes.iter().map(|(_, items)| items.len()).sum::<usize>();
        let (mut next, mut done) = (Vec::with_capacity(self.0.len() + more), 0);
        for (range, items) in changes {
            next.extend_from_slice(&self.0[done..range.start]);
            next.extend(items);
            done = range.end;
        }
        next.extend_from_slice(&self.0[done..]);
        Self(next.into())
    }

    fn range(&self, owner: &Owner) -> Range<usize> {
        let begin = self.0.partition_point(|item| item.owner() < owner.key());
        let (own, _) = split(&self.0[begin..], owner.key());
        begin..begin + own.len()
    }
}

/// What the owner has of what begins with it.
fn split<'a, T: Owned>(items: &'a [Arc<T>], owner: OwnerKey<'_>) -> (&'a [Arc<T>], &'a [Arc<T>]) {
    let own = items.iter().take_while(|item| item.owner() == owner).count();
    items.split_at(own)
}

impl<T> Change<T> {
    /// Whose things change.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.0.keys()
    }

    /// Notes what an owner has from now on.
    pub(super) fn insert(&mut self, owner: Owner, items: Vec<Arc<T>>) {
        self.0.insert(owner, items);
    }
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Clone for Section<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Section<T> {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

/// Things of one owner stay in their order.
impl<T: Owned> From<Vec<Arc<T>>> for Section<T> {
    fn from(mut items: Vec<Arc<T>>) -> Self {
        items.sort_by(|one, other| one.owner().cmp(&other.owner()));
        Self(items.into())
    }
}

impl<T> Deref for Section<T> {
    type Target = [Arc<T>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Owned for LiveWorker {
    fn owner(&self) -> OwnerKey<'_> {
        self.worker.owner()
    }
}

impl Owned for Route {
    fn owner(&self) -> OwnerKey<'_> {
        (&self.account, self.worker.as_ref())
    }
}

impl Owned for Schedule {
    fn owner(&self) -> OwnerKey<'_> {
        self.worker.owner()
    }
}

impl Owned for WorkerRules {
    fn owner(&self) -> OwnerKey<'_> {
        self.worker.owner()
    }
}

impl Owned for WorkerDocument {
    fn owner(&self) -> OwnerKey<'_> {
        self.worker.owner()
    }
}

impl Owned for WorkerRef {
    fn owner(&self) -> OwnerKey<'_> {
        (&self.account, Some(&self.worker))
    }
}

/// An account's subdomain.
impl Owned for (AccountId, String) {
    fn owner(&self) -> OwnerKey<'_> {
        (&self.0, None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(of: &[(u8, u8, u8)]) -> Vec<Arc<Route>> {
        let route = |(account, worker, path): &(u8, u8, u8)| Route {
            id: path.to_string(),
            account: AccountId::new(account.to_string()),
            pattern: format!("{account}.{worker}/{path}"),
            worker: (*worker > 0).then(|| WorkerName::new(worker.to_string())),
        };
        of.iter().map(route).map(Arc::new).collect()
    }

    proptest! {
        #[test]
        fn a_change_makes_the_one_of_the_other(
            before in proptest::collection::vec((0..3u8, 0..3u8, 0..3u8), 0..12),
            after in proptest::collection::vec((0..3u8, 0..3u8, 0..3u8), 0..12),
            kept in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let before = Section::from(routes(&before));
            // Some of it is shared with what was before.
            let mut items = routes(&after);
            items.extend(before.iter().zip(kept).filter(|(_, kept)| *kept).map(|(item, _)| item.clone()));
            let after = Section::from(items);
            let change = after.since(&before);
            let (text, owners) = (rmp_serde::to_vec_named(&change).unwrap(), change.owners().count());
            prop_assert_eq!(&before.with(change), &after);
            let read: Change<Route> = rmp_serde::from_slice(&text).unwrap();
            let made = before.with(read);
            prop_assert_eq!(&made, &after);
            prop_assert_eq!(made.since(&after).owners().count(), 0, "equal things are no change");
            prop_assert_eq!(made.is(&before), owners == 0);
            for owner in after.since(&Section::default()).owners() {
                let same = |item: &&Arc<Route>| item.owner() == owner.key();
                let expected: Vec<_> = after.iter().filter(same).cloned().collect();
                prop_assert_eq!(after.of(owner), &expected[..]);
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_shared() {
        let before =
            Section::from(routes(&[(0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 0)]));
        let mut change = Change::default();
        let owner = Owner { account: AccountId::new("1"), worker: Some(WorkerName::new("1")) };
        change.insert(owner.clone(), routes(&[(1, 1, 1)]));
        let after = before.with(change);
        assert_eq!(after.since(&before).owners().collect::<Vec<_>>(), [&owner]);
        for (new, old) in [(0, 0), (1, 1), (3, 4)] {
            assert!(Arc::ptr_eq(&after[new], &before[old]));
        }
        assert_eq!(after.of_account(&AccountId::new("1")).len(), 2);
        assert_eq!((after.len(), after.of(&owner).len()), (4, 1));
    }
}
