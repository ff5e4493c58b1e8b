//! The promise: requests are served in the regions that their worker names, or refused as documented, while nodes
//! are killed, stopped, slowed and cut off; and no request that may not be repeated is executed twice. WebSockets go
//! there as requests do.
//!
//! Three nodes of the real binary in three regions, one NATS server, and between the nodes proxies of this test that
//! delay, silence and cut what goes through them: kernels without `netem` can do no more, and it needs no
//! privileges. What was executed is written down by a server outside of all that fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod quiet;
mod sockets;
mod world;
