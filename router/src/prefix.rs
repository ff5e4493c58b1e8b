//! A read-only map from byte strings to values that finds every key that begins a text, the
//! longest first, in one binary search and a walk.

/// Keys in order, each linked to the longest other key that begins it.
#[derive(Debug)]
pub(crate) struct PrefixMap<V> {
    entries: Vec<Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    key: Box<[u8]>,
    parent: Option<u32>,
    value: V,
}

impl<V> PrefixMap<V> {
    /// Builds the map. Of equal keys the last stays.
    pub(crate) fn build(pairs: impl IntoIterator<Item = (Box<[u8]>, V)>) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
        let mut entries: Vec<Entry<V>> = Vec::with_capacity(sorted.len());
        for (key, value) in sorted {
            // Between a key and one that it begins only keys that it begins too can stand, so the
            // parent is the predecessor or one of the predecessor's ancestors.
            let mut parent = entries.len().checked_sub(1).map(|at| at as u32);
            while let Some(at) = parent {
                let candidate = &entries[at as usize];
                if key.starts_with(&candidate.key) {
                    break;
                }
                parent = candidate.parent;
            }
            entries.push(Entry { key, parent, value });
        }
        Self { entries }
    }

    /// All values.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// The values of all keys that begin `text`, the longest key first.
    pub(crate) fn beginning<'a, 't>(
        &'a self,
        text: &'t [u8],
    ) -> impl Iterator<Item = &'a V> + use<'a, 't, V> {
        let after = self.entries.partition_point(|entry| *entry.key <= *text);
        let mut at = after.checked_sub(1).map(|at| at as u32);
        let mut shared = None;
        std::iter::from_fn(move || {
            while let Some(index) = at {
                let entry = &self.entries[index as usize];
                at = entry.parent;
                // The ancestors of the first entry are its beginnings: how much of it the text
                // shares decides for all of them.
                let shared = *shared.get_or_insert_with(|| shared_bytes(&entry.key, text));
                if entry.key.len() <= shared {
                    return Some(&entry.value);
                }
            }
            None
        })
    }
}

fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_every_beginning(
            keys in proptest::collection::btree_set("[ab/]{0,5}", 0..20), text in "[ab/]{0,8}"
        ) {
            let map = PrefixMap::build(keys.iter().map(|k| (k.as_bytes().into(), k.clone())));
            let found: Vec<_> = map.beginning(text.as_bytes()).cloned().collect();
            let mut expected: Vec<_> =
                keys.iter().filter(|k| text.starts_with(k.as_str())).cloned().collect();
            expected.sort_by_key(|k| std::cmp::Reverse(k.len()));
            prop_assert_eq!(found, expected);
        }
    }
}
