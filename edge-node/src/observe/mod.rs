//! What the node says about itself: metrics, health, logs, and the reports of invocations that
//! live tails follow. It never slows down what it observes.

mod exposition;
mod forwarded;
mod health;
mod histogram;
mod hub;
mod labelled;
mod log;
mod metrics;
mod origins;
mod standings;

pub(crate) use forwarded::{ForwardOutcome, Forwarded};
pub use health::{Health, NodeState, ProcessState, ProcessStatus, health_routes};
pub use hub::{Followed, Heard, Listener, ReportHub};
pub use log::{LogError, init_log};
pub use metrics::{Count, InFlight, KvOperation, Labelled, Metrics, MetricsDelta};
pub(crate) use origins::{OriginCounts, OriginEvent};
pub(crate) use standings::{OriginStanding, STANDINGS_MAX};
