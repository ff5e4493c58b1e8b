//! What can go wrong in the registry.

use std::path::PathBuf;

/// An operation on the registry failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The database failed.
    #[error("the registry's database failed: {0}")]
    Storage(#[from] rusqlite::Error),
    /// A file beside the database failed.
    #[error("cannot use {path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database was written by a newer release.
    #[error(
        "the registry has schema {found}, this release knows {known}: run the release that wrote it, or a newer one"
    )]
    SchemaTooNew {
        /// The schema in the file.
        found: i64,
        /// The newest schema that this release reads.
        known: i64,
    },
    /// A stored value cannot be understood.
    #[error("the registry holds {what} that cannot be read: restore a backup")]
    Corrupt {
        /// What it is.
        what: String,
    },
    /// Secrets cannot be decrypted with this node's key.
    #[error(
        "the secrets of version {version} cannot be decrypted: is node.key the one they were written with?"
    )]
    WrongKey {
        /// The version that holds them.
        version: String,
    },
    /// Something that was named does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: Missing,
    },
    /// A name is taken.
    #[error("{what} is already taken")]
    Taken {
        /// What was asked for.
        what: Taken,
    },
    /// A change of secrets or settings would deploy a version that was never deployed.
    #[error("the worker's latest version is not deployed: deploy it first, or make a new version")]
    LatestNotDeployed,
    /// What was asked for cannot be stored.
    #[error("{0}")]
    Invalid(String),
    /// The log that all nodes share cannot be reached, or this node may not write to it. Nothing was changed.
    #[error(
        "nothing was changed, because {0}: workers are served all the same, try again once this node is current"
    )]
    Unavailable(String),
    /// The log that all nodes share did not answer in time.
    #[error("whether the change was made is unknown ({0}): look before you make it again")]
    OutcomeUnknown(String),
    /// Other nodes changed the registry at the same time, again and again.
    #[error("nothing was changed, because other nodes made changes at the same time: try again")]
    Contended,
    /// What the log says cannot be applied.
    #[error("{0}")]
    Replica(String),
    /// A node cannot become one of its cluster.
    #[error("cannot join the cluster: {0}")]
    Join(String),
    /// A named limit is reached.
    #[error("the limit of {max} {what} is reached: delete some first")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

/// What does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// An account.
    #[error("this account")]
    Account,
    /// A worker.
    #[error("worker {0}")]
    Worker(String),
    /// A version.
    #[error("version {0}")]
    Version(String),
    /// A route.
    #[error("route {0}")]
    Route(String),
    /// A rule of a worker.
    #[error("rule {0}")]
    Rule(String),
    /// A KV namespace.
    #[error("namespace {0}")]
    Namespace(String),
    /// An API token.
    #[error("token {0}")]
    Token(String),
    /// A certificate.
    #[error("certificate {0}")]
    Certificate(String),
}

/// What is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Taken {
    /// A subdomain of another account.
    #[error("subdomain {0}")]
    Subdomain(String),
    /// The title of another namespace of the account.
    #[error("namespace title {0}")]
    NamespaceTitle(String),
    /// A route of another worker or account.
    #[error("route {0}")]
    Route(String),
    /// A host of another account.
    #[error("host {0}")]
    Host(String),
}
