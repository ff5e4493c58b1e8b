//! Origin pools: requests of workers to some hosts, taken to origins of the worker's choice. Which one is decided in
//! the router crate; here are the pools of a snapshot, the connections, and the checks. All threads of a serving
//! process share what is known of an origin; processes and nodes find out for themselves.

mod checks;
mod clients;
mod live;
mod send;

pub(crate) use clients::OriginClients;
pub(crate) use live::{Checkers, LivePool, LivePools, Whence};
pub(crate) use send::{PoolError, Upstream};
