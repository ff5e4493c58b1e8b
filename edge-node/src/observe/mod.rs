//! What the node says about itself: metrics, health, logs, and the reports of invocations that
//! live tails follow. It never slows down what it observes.

mod health;
mod hub;
mod log;
mod metrics;

pub use health::{Health, NodeState, health_routes};
pub use hub::{Heard, Listener, ReportHub};
pub use log::{LogError, init_log};
pub use metrics::{InFlight, KvOperation, Metrics};
