//! The `atoll` binary: reads the command line and the environment once, and runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use atoll_edge_node::cli::{self, Cli, Environment};
use clap::Parser;

/// The allocator that V8's library would bring along is several times slower for small blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Cli::parse(), Environment::from_process())
}
