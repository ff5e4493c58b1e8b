//! A thread's connections to origins: one client for each, whose connections no other origin or worker shares.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::live::LivePool;
use crate::outbound::Outbound;

/// The clients of one thread.
pub(crate) struct OriginClients {
    internet: Outbound,
    /// The node's region, or its place where it has none.
    pub(super) region: Option<Box<str>>,
    /// By the address of the pool in memory, which is no other's as long as the reference is there.
    clients: RefCell<HashMap<*const LivePool, OfPool>>,
}

struct OfPool {
    pool: Weak<LivePool>,
    /// By origin; made when first wanted.
    clients: Vec<Option<Outbound>>,
}

impl OriginClients {
    pub(crate) fn new(internet: Outbound, region: Option<&str>) -> Self {
        Self { internet, region: region.map(Into::into), clients: RefCell::default() }
    }

    /// The client for an origin.
    pub(super) fn of(&self, pool: &Arc<LivePool>, at: usize) -> Outbound {
        let mut clients = self.clients.borrow_mut();
        let key = Arc::as_ptr(pool);
        if !clients.contains_key(&key) {
            // Connections of pools that are gone go with them.
            clients.retain(|_, of| of.pool.strong_count() > 0);
        }
        let of = clients.entry(key).or_insert_with(|| OfPool {
            pool: Arc::downgrade(pool),
            clients: vec![None; pool.origins.len()],
        });
        let make = || self.internet.to(pool.origins[at].destination.clone());
        of.clients[at].get_or_insert_with(make).clone()
    }
}
