//! From a request to an isolate and back. Front threads accept, route and run what is called often and never
//! long; back threads run everything else. Serving reads snapshots and never waits on the control plane.

mod admission;
mod back;
mod body;
mod call;
mod cf;
mod check;
mod counts;
mod cron;
mod depth;
mod events;
mod fair_queue;
mod forward;
mod handshake;
mod home;
mod host;
mod offences;
mod origins;
mod pages;
mod peer;
mod placement;
mod placer;
mod pool;
mod quarantine;
mod replicas;
mod room;
mod rules;
mod scripts;
mod service;
mod siblings;
mod spares;
mod splitmix;
mod targets;
mod thread;

pub use check::IsolateCheck;
pub use cron::{Lines, run_crons};
pub(crate) use depth::stamp_as_node;
pub(crate) use forward::{Neighbour, Neighbourhood};
pub(crate) use home::home_of;
pub use host::ConsoleLine;
pub use peer::ServingPeering;
pub(crate) use pool::script;
pub use quarantine::{Culprit, Quarantined};
pub(crate) use siblings::{SIBLING_NAME, ServingSiblings, Siblings};
pub use targets::{Target, Targets};
pub use thread::{DataThread, Job, Shared, Sockets, ThreadError, spawn_threads};
