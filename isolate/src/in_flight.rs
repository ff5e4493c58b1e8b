//! The invocations in flight by their numbers. Mostly there is one, which takes no map: a map's memory is not in the
//! processor's caches when the instance rested.

use rustc_hash::FxHashMap;

use crate::invocation::{Invocation, InvocationKey};

/// Invocations are boxed: a box that was just given back is still in the processor's caches.
#[derive(Default)]
pub(crate) struct InFlight {
    /// Any one of them, unless there is none in its place.
    first: Option<(InvocationKey, Box<Invocation>)>,
    others: FxHashMap<InvocationKey, Box<Invocation>>,
}

impl InFlight {
    /// Adds one whose key none has.
    pub(crate) fn insert(&mut self, key: InvocationKey, invocation: Box<Invocation>) {
        match &self.first {
            None => self.first = Some((key, invocation)),
            Some(_) => drop(self.others.insert(key, invocation)),
        }
    }

    pub(crate) fn remove(&mut self, key: InvocationKey) -> Option<Box<Invocation>> {
        match self.first.take_if(|(first, _)| *first == key) {
            Some((_, invocation)) => Some(invocation),
            None => self.others.remove(&key),
        }
    }

    pub(crate) fn find(&self, key: InvocationKey) -> Option<&Invocation> {
        match &self.first {
            Some((first, invocation)) if *first == key => Some(invocation),
            _ => self.others.get(&key).map(|invocation| &**invocation),
        }
    }

    pub(crate) fn find_mut(&mut self, key: InvocationKey) -> Option<&mut Invocation> {
        match &mut self.first {
            Some((first, invocation)) if *first == key => Some(invocation),
            _ => self.others.get_mut(&key).map(|invocation| &mut **invocation),
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (InvocationKey, &Invocation)> {
        let first = self.first.iter().map(|(key, invocation)| (*key, &**invocation));
        first.chain(self.others.iter().map(|(key, invocation)| (*key, &**invocation)))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Invocation> {
        self.iter().map(|(_, invocation)| invocation)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Invocation> {
        let first = self.first.iter_mut().map(|(_, invocation)| &mut **invocation);
        first.chain(self.others.values_mut().map(|invocation| &mut **invocation))
    }
}
