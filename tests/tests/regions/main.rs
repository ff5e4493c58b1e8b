//! The promise: requests are served in the regions that their worker names, or refused as documented, while nodes
//! are killed, stopped, slowed and cut off; and no request that may not be repeated is executed twice. WebSockets go
//! there as requests do.
//!
//! Three nodes of the real binary in three regions, one NATS server, and between the nodes proxies of this test that
//! delay, silence and cut what goes through them, which needs no privileges. Where the test may make networks, `apart`
//! gives every node one of its own, with ways between them on which packets take their time or vanish; kernels need no
//! `netem` for that. What was executed is written down by servers outside of all that fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apart;
mod faults;
mod quiet;
mod sockets;
mod world;
