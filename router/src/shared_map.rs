//! A map whose next version shares what has not changed: it is cloned in no time, and a change copies a small part
//! of the entries.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::ptr;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

/// Parts of a map: a change copies the entries of one.
const PARTS: usize = 256;

/// A map for tables that are swapped whole. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedMap<K, V> {
    /// None before the first entry.
    parts: Vec<Arc<HashMap<K, V>>>,
    entries: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(part(key))?.get(key)
    }

    /// Where looking a key up looks.
    pub(crate) fn places<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<[*const u8; 3]>
    where
        K: Borrow<Q>,
    {
        let part = self.parts.get(part(key))?;
        let (known, _) = part.get_key_value(key)?;
        let text: &Q = known.borrow();
        Some([Arc::as_ptr(part).cast(), ptr::from_ref(known).cast(), ptr::from_ref(text).cast()])
    }

    /// Whether the key has a value.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Gives the key a value, in place of the one that it had.
    pub fn insert(&mut self, key: K, value: V) {
        if self.parts.is_empty() {
            self.parts = vec![Arc::default(); PARTS];
        }
        let replaced = Arc::make_mut(&mut self.parts[part(&key)]).insert(key, value);
        self.entries += usize::from(replaced.is_none());
    }

    /// Takes a key and its value out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        // What has nothing to be taken out of it stays shared.
        if self.contains(key) {
            Arc::make_mut(&mut self.parts[part(key)]).remove(key);
            self.entries -= 1;
        }
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none. Looking is free.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), entries: 0 }
    }
}

/// Not the parts' own hash: keys that are made to meet in one part make changes slower, and nothing else.
fn part<Q: Hash + ?Sized>(key: &Q) -> usize {
    FxBuildHasher.hash_one(key) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_so_are_its_clones(
            changes in proptest::collection::vec((0..40u8, any::<Option<u8>>()), 0..200),
            cloned_at in 0..200usize,
        ) {
            let (mut map, mut model) = (SharedMap::default(), HashMap::new());
            let mut before = None;
            for (at, (key, value)) in changes.into_iter().enumerate() {
                if at == cloned_at {
                    before = Some((map.clone(), model.clone()));
                }
                match value {
                    Some(value) => {
                        map.insert(key, value);
                        model.insert(key, value);
                    }
                    None => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                }
            }
            for (map, model) in before.into_iter().chain([(map, model)]) {
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(map.values().count(), model.len());
                for key in 0..40 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_part() {
        let mut before = SharedMap::default();
        (0..10_000).for_each(|key| before.insert(key, ()));
        let mut after = before.clone();
        after.insert(10_000, ());
        after.remove(&20_000);
        let parts = before.parts.iter().zip(&after.parts);
        assert_eq!(parts.filter(|(one, other)| !Arc::ptr_eq(one, other)).count(), 1);
    }
}
