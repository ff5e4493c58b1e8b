//! NATS: one connection of a node, the logs that it opens in JetStream, and small messages between
//! nodes that nothing keeps. It knows no key and no worker.

mod connection;
mod log;
mod messages;
mod options;
mod subscription;
mod wire;

pub use connection::{NatsConnection, NatsError};
pub use log::NatsLog;
pub use messages::{Message, Subscription};
pub use options::{NatsAuth, NatsOptions, NatsTls};
