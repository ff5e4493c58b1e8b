//! Asks one question per bench of atoll and its peers, on this machine, in turn, in one run. It
//! builds no server and judges no figure: it measures, compares and writes down.

#![forbid(unsafe_code)]

mod api;
mod calls;
mod cli;
mod cluster;
mod footprint;
mod generator;
mod histogram;
mod hosting;
mod http;
mod kv;
mod load;
mod machine;
mod plot;
mod process;
mod progress;
mod questions;
mod report;
mod results;
mod rules;
mod run;
mod servers;
mod tls;
mod window;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
