//! Looks addresses up on one thread, and remembers what it found: a client that sends many requests, or comes
//! over many connections, is looked up once.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use atoll_router::Place;
use rustc_hash::FxHashMap;

use super::Geo;

/// Addresses whose place a thread remembers. All are forgotten when there are more.
const PLACES_MAX: usize = 2_048;

/// The places of one thread's clients.
pub(crate) struct ThreadGeo {
    geo: Arc<Geo>,
    places: RefCell<FxHashMap<IpAddr, Rc<Place>>>,
    /// The table that they come from.
    swaps: Cell<u64>,
}

impl ThreadGeo {
    pub(crate) fn new(geo: Arc<Geo>) -> Self {
        let swaps = Cell::new(geo.swaps());
        Self { geo, places: RefCell::default(), swaps }
    }

    /// Where a client is.
    pub(crate) fn place(&self, address: IpAddr) -> Rc<Place> {
        let mut places = self.places.borrow_mut();
        let swaps = self.geo.swaps();
        if swaps != self.swaps.replace(swaps) {
            places.clear();
        }
        if let Some(place) = places.get(&address) {
            return place.clone();
        }
        let place = Rc::new(self.geo.table.load().place(address));
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(address, place.clone());
        place
    }
}
