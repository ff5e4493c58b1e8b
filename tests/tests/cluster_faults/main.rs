//! The promise: whatever ends or is cut off, no acknowledged write is lost, no deleted key comes back, reads
//! of a key never go back on a node, and in the end all nodes hold the same, byte for byte.
//!
//! Three NATS servers, three nodes of the real binary, clients that write and read the same keys on all of
//! them through the API and through workers, and one fault after another. What the clients see is recorded
//! here, outside of all that is killed, and checked by `atoll_tests::check` after each round.
//!
//! A soak: `ATOLL_SOAK_ROUNDS=50 cargo test --release -p atoll-tests --test cluster_faults -- --nocapture`.
//! `ATOLL_SOAK_SEED` repeats the choices of an earlier run, though not its timing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod faults;
mod load;
mod random;
mod rounds;

use std::time::Duration;

/// How long the cluster may take to be whole again, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_hold_through_faults() {
    let rounds = number("ATOLL_SOAK_ROUNDS").unwrap_or(faults::Fault::ALL.len() as u64);
    let seed = number("ATOLL_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("ATOLL_SOAK_ROUNDS={rounds} ATOLL_SOAK_SEED={seed}");
    rounds::run(rounds, seed).await;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("it is a number"))
}
