//! From a request to an isolate and back: data-plane threads that share nothing, each with its listeners,
//! its instances and its client. Serving reads snapshots and never waits on the control plane.

mod cf;
mod check;
mod cron;
mod events;
mod host;
mod pages;
mod pool;
mod quarantine;
mod service;
mod spares;
mod targets;
mod thread;

pub use check::IsolateCheck;
pub use cron::run_crons;
pub use host::ConsoleLine;
pub use quarantine::{Culprit, Quarantined};
pub use targets::{Target, Targets};
pub use thread::{DataThread, Job, Shared, Sockets, ThreadError, spawn_threads};
