//! The one client through which workers reach the internet: it connects only to addresses that
//! were checked after resolution. It follows no redirect: each hop is a call of its own, and so
//! is checked anew.

pub mod address;
mod client;
mod connect;
mod decode;
mod error;
mod system;
mod upload;
mod websocket;

#[cfg(test)]
mod tests;

pub use client::{Outbound, OutboundOptions, ReqBody, ResBody};
pub(crate) use client::{Stage, Unanswered};
pub(crate) use connect::Destination;
pub use connect::PrivateAddresses;
pub use decode::DecodeBody;
pub use error::OutboundError;
pub use system::SystemNetwork;
pub(crate) use system::system_roots;
pub(crate) use upload::Resendable;
pub use websocket::ServerSocket;

/// An error of a body, whoever made it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
