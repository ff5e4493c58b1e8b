//! The grammar of `atoll rules`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::ProjectArgs;

/// Commands of `atoll rules`.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// List a worker's rules and who gets what now
    List {
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Print a worker's rules as JSON, with what the node adds
    Show {
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Replace a worker's rules
    Set {
        /// A file of rules: TOML or JSON
        file: PathBuf,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Remove a worker's rules
    Delete {
        #[command(flatten)]
        project: ProjectArgs,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Show what comes of a worker's rules: who saw what, what they did, and how sure that is
    Status {
        /// The worker, unless it is the project's
        worker: Option<String>,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Let a rule hold again that was switched off, and variants that a guardrail took back
    Enable {
        /// The rule's name
        rule: String,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Switch a rule off, until it is enabled again
    Disable {
        /// The rule's name
        rule: String,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Say what the rules make of a request, without sending it
    Test(Box<TestArgs>),
    /// Make a token for previews, and the line for the rules that goes with it
    Token,
}

/// A request to try.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The request's URL
    pub url: String,
    /// Its method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// One of its headers
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = super::args::variable)]
    pub headers: Vec<(String, String)>,
    /// The client's country, two letters
    #[arg(long)]
    pub country: Option<String>,
    /// The client's continent, two letters
    #[arg(long)]
    pub continent: Option<String>,
    /// The client's region
    #[arg(long)]
    pub region: Option<String>,
    /// The client's city
    #[arg(long)]
    pub city: Option<String>,
    /// The number of the client's network
    #[arg(long)]
    pub asn: Option<u32>,
    /// Whether the client is in the European Union
    #[arg(long)]
    pub eu: Option<bool>,
    /// The client's automatic id
    #[arg(long, value_name = "ID")]
    pub unit: Option<String>,
    /// When the request comes, such as 2026-11-26T14:00:00Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
}
