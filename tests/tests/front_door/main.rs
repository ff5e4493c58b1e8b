//! The promise: whatever bytes a client sends, they are one request or none, cost the node little, and do not
//! touch anybody else.
//!
//! `docs/hardening.md` has the table of attacks that these tests go through.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod floods;
mod frames;
mod http1;
mod http2;
mod http3;
mod neighbour;
mod paths;
mod proxies;
mod slow;
mod wire;
