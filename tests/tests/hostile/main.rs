//! The promise: whatever a script does, it ends with the documented outcome, within its limits, and
//! the node, its other workers and the script's own next request go on.
//!
//! The scripts stand in `cases/`, one file for each family. `--nocapture` prints a table of what each came
//! to. `ATOLL_HOSTILE_CASE=part` runs the cases whose name has that part. With `ATOLL_HOSTILE_P99=1` (and
//! `--test-threads=1`, on a machine that has nothing else to do) the neighbour's latency is held to its own
//! baseline: elsewhere wall time proves nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
mod neighbour;
mod refused;
mod run;
mod world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_end() {
    run::family("loops", 200, run::OVER_MS, include_str!("cases/loops.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recursion_ends() {
    run::family("recursion", 200, run::OVER_MS, include_str!("cases/recursion.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_has_an_end() {
    // A collection of the whole heap near its limit is not interrupted.
    run::family("memory", 1_000, 500, include_str!("cases/memory.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_stemmed() {
    run::family("floods", 200, run::OVER_MS, include_str!("cases/floods.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_caught_wherever_they_happen() {
    run::family("hooks", 200, run::OVER_MS, include_str!("cases/hooks.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_after_the_response_is_bounded() {
    run::family("after", 200, run::OVER_MS, include_str!("cases/after.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampering_harms_its_author_alone() {
    run::family("tampering", 200, run::OVER_MS, include_str!("cases/tampering.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_inside_is_in_reach() {
    run::family("reach", 200, run::OVER_MS, include_str!("cases/reach.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_cannot_start_are_refused() {
    run::family("starting", 200, run::OVER_MS, include_str!("cases/starting.js")).await;
}
