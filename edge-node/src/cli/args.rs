//! The command line's grammar.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::cluster::{ClusterCommand, WithParentArgs};

/// Atoll: an edge worker platform that people run themselves.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, about, propagate_version = true)]
pub struct Cli {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node
    Serve(ServeArgs),
    /// Run a project on a node of its own, redeployed at every save
    Dev(DevArgs),
    /// Start a node with sample workers
    Demo(DemoArgs),
    /// Start a TypeScript project
    Init(InitArgs),
    /// Bundle a project and deploy it to a node
    Deploy(DeployArgs),
    /// Remove a worker and everything deployed of it
    Delete(DeleteArgs),
    /// Watch a worker's invocations as they happen
    Tail(TailArgs),
    /// List a worker's versions
    #[command(subcommand)]
    Versions(VersionsCommand),
    /// List a worker's deployments
    #[command(subcommand)]
    Deployments(DeploymentsCommand),
    /// Work with KV namespaces and their keys
    #[command(subcommand)]
    Kv(KvCommand),
    /// Say in which regions of the cluster a worker may run
    #[command(subcommand)]
    Regions(super::regions::RegionsCommand),
    /// Work with the rules that decide about a worker's requests
    #[command(subcommand)]
    Rules(super::rule_args::RulesCommand),
    /// Work with a worker's secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Work with certificates of the HTTPS listener
    #[command(subcommand)]
    Certificates(super::certificates::CertificatesCommand),
    /// Save and choose nodes to talk to
    #[command(subcommand)]
    Context(ContextCommand),
    /// Write all that a node keeps into a file, while it does not run
    Export(ExportArgs),
    /// Read such a file into an empty node, while it does not run
    Import(ArchiveArgs),
    /// List the nodes of the cluster
    Nodes,
    /// Show a worker's origin pools, and how their origins stand
    Pools(ProjectArgs),
    /// Start a whole cluster on this machine
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show the node, the account and where they were found
    Whoami,
    /// Serve for a node's supervisor, which `atoll serve` is
    #[command(hide = true)]
    ServingProcess,
    /// Check uploaded scripts for a node's supervisor
    #[command(hide = true)]
    CheckProcess,
    /// Become a program that ends with its parent
    #[command(hide = true)]
    WithParent(WithParentArgs),
}

/// Options of `atoll serve`: each overrides its key in the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the node keeps its state [default: atoll-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where workers are served over HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Where workers are served over HTTPS [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    pub https: Option<SocketAddr>,
    /// Where the API is served [default: 127.0.0.1:8787]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// The domain of workers' default hosts [default: localhost]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Threads that run workers [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// Serving processes that share the threads [default: 2, and one more for every 8 cores]
    #[arg(long, value_name = "N")]
    pub processes: Option<std::num::NonZeroUsize>,
    /// Join a cluster through these NATS servers
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub nats: Vec<String>,
    /// What the node is called in its cluster
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the node says it is in its cluster [default: default]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Where other nodes of its cluster send requests
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<SocketAddr>,
    /// Read the configuration, say what is wrong with it, and end
    #[arg(long)]
    pub check: bool,
    /// Listen on the sockets that the program before has left in standard input
    #[arg(long, hide = true)]
    pub take_over: bool,
}

/// Options of `atoll export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub archive: ArchiveArgs,
    /// Leave out KV values that are not on this node and cannot be fetched from its cluster
    #[arg(long)]
    pub leave_out_missing: bool,
}

/// Options of `atoll export` and `atoll import`: where the node is, as `atoll serve` is told.
#[derive(Clone, Debug, Args)]
pub struct ArchiveArgs {
    /// The file
    pub file: PathBuf,
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the node keeps its state [default: atoll-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The NATS servers of its cluster
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub nats: Vec<String>,
    /// What the node is called in its cluster
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Which project and environment a command is about.
#[derive(Clone, Debug, Default, Args)]
pub struct ProjectArgs {
    /// The configuration file, instead of the one found
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The environment of the configuration file
    #[arg(short, long, value_name = "NAME")]
    pub env: Option<String>,
    /// The worker's name, instead of the configured one
    #[arg(long)]
    pub name: Option<String>,
}

/// Options of `atoll deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The project's folder, or an entry script
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Bundle and check, but deploy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the modules to a folder too
    #[arg(long, value_name = "DIR")]
    pub outdir: Option<PathBuf>,
    /// A variable, over what the configuration says
    #[arg(long = "var", value_name = "NAME:VALUE", value_parser = variable)]
    pub vars: Vec<(String, String)>,
    /// Keep variables that only the node knows
    #[arg(long)]
    pub keep_vars: bool,
    /// Minify the bundle
    #[arg(long)]
    pub minify: bool,
    /// The compatibility date, instead of the configured one
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub compatibility_date: Option<String>,
    /// A message to remember the version by
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// Options of `atoll dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The project's folder, or an entry script
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The port for HTTP; another is chosen when it is taken
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The port for HTTPS; another is chosen when it is taken
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,
    /// Listen for Chrome DevTools
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:9229")]
    pub inspect: Option<SocketAddr>,
    /// A variable, over what the configuration and .dev.vars say
    #[arg(long = "var", value_name = "NAME:VALUE", value_parser = variable)]
    pub vars: Vec<(String, String)>,
}

/// Options of `atoll demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the node and the samples are kept
    #[arg(long, value_name = "DIR", default_value = "atoll-demo")]
    pub data: PathBuf,
    /// The port for HTTP; another is chosen when it is taken
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The port for HTTPS; another is chosen when it is taken
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,
}

/// Options of `atoll init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to make
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The worker's name [default: the folder's]
    #[arg(long)]
    pub name: Option<String>,
}

/// Options of `atoll delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The worker [default: the project's]
    pub worker: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Options of `atoll tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// The worker [default: the project's]
    pub worker: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
    /// How to print [default: pretty on a terminal, else json]
    #[arg(long)]
    pub format: Option<TailFormat>,
    /// Only invocations that ended so
    #[arg(long)]
    pub status: Vec<TailStatus>,
    /// Only requests with this method
    #[arg(long)]
    pub method: Vec<String>,
    /// Only invocations whose console lines contain this text
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// The share of invocations to show, from 0 to 1
    #[arg(long, value_name = "RATE")]
    pub sampling_rate: Option<f64>,
}

/// How `atoll tail` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TailFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Which invocations `atoll tail` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TailStatus {
    /// Those that ended well.
    Ok,
    /// Those that failed.
    Error,
    /// Those whose client left.
    Canceled,
}

/// Commands of `atoll versions`.
#[derive(Debug, Subcommand)]
pub enum VersionsCommand {
    /// List versions, newest first
    List(WorkerArgs),
}

/// Commands of `atoll deployments`.
#[derive(Debug, Subcommand)]
pub enum DeploymentsCommand {
    /// List deployments, newest first
    List(WorkerArgs),
}

/// Which worker a command is about.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The worker [default: the project's]
    pub worker: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
}

/// Commands of `atoll secret`.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret; its value is read from the standard input
    Put {
        /// The secret's name
        key: String,
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// List secrets' names
    List {
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Remove a secret
    Delete {
        /// The secret's name
        key: String,
        #[command(flatten)]
        project: ProjectArgs,
    },
}

/// Commands of `atoll context`.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Save a node under a name and use it from now on
    Add {
        /// The name
        name: String,
        /// The API's address, such as http://127.0.0.1:8787/client/v4
        #[arg(long)]
        url: String,
        /// The API token; read from the standard input when it is not given
        #[arg(long)]
        token: Option<String>,
        /// The account; asked of the node when it is not given
        #[arg(long)]
        account: Option<String>,
    },
    /// List saved nodes
    List,
    /// Use a saved node from now on
    Use {
        /// The name
        name: String,
    },
    /// Forget a saved node
    Remove {
        /// The name
        name: String,
    },
}

/// Commands of `atoll kv`.
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Namespaces
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    /// Single keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Many keys at once
    #[command(subcommand)]
    Bulk(BulkCommand),
}

/// Commands of `atoll kv namespace`.
#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// Make a namespace
    Create {
        /// Its title
        title: String,
    },
    /// List namespaces
    List,
    /// Give a namespace another title
    Rename {
        /// Its title now, unless --namespace-id names it
        title: Option<String>,
        /// Its id
        #[arg(long)]
        namespace_id: Option<String>,
        /// The new title
        #[arg(long)]
        new_name: String,
    },
    /// Remove a namespace and all its keys
    Delete {
        #[command(flatten)]
        namespace: NamespaceArgs,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// Which namespace a command is about.
#[derive(Clone, Debug, Args)]
pub struct NamespaceArgs {
    /// The binding's name in the project
    #[arg(long, conflicts_with = "namespace_id", required_unless_present = "namespace_id")]
    pub binding: Option<String>,
    /// The namespace's id
    #[arg(long)]
    pub namespace_id: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
}

/// Commands of `atoll kv key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Write a key
    Put {
        /// The key
        key: String,
        /// The value, unless --path names a file
        #[arg(required_unless_present = "path", conflicts_with = "path")]
        value: Option<String>,
        #[command(flatten)]
        namespace: NamespaceArgs,
        /// A file that holds the value
        #[arg(long, value_name = "FILE")]
        path: Option<PathBuf>,
        /// JSON to keep beside the value
        #[arg(long, value_name = "JSON")]
        metadata: Option<String>,
        /// Seconds until the key expires
        #[arg(long, conflicts_with = "expiration")]
        ttl: Option<u64>,
        /// When the key expires, in seconds since 1970
        #[arg(long)]
        expiration: Option<u64>,
    },
    /// Print a key's value
    Get {
        /// The key
        key: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// List keys
    List {
        #[command(flatten)]
        namespace: NamespaceArgs,
        /// Only keys that begin so
        #[arg(long)]
        prefix: Option<String>,
    },
    /// Remove a key
    Delete {
        /// The key
        key: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
}

/// Commands of `atoll kv bulk`.
#[derive(Debug, Subcommand)]
pub enum BulkCommand {
    /// Write the pairs of a JSON file: [{"key", "value", "expiration_ttl"?, "metadata"?, ...}]
    Put {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Print the values of the keys in a JSON file: ["key", ...]
    Get {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Remove the keys in a JSON file: ["key", ...]
    Delete {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        namespace: NamespaceArgs,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME:VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        super::Cli::command().debug_assert();
    }
}
