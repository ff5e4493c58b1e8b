//! The nouns of the control plane: accounts, workers, versions, deployments, routes, schedules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use atoll_isolate::{Module, ModuleKind, ScriptFormat};
pub use atoll_kv::NamespaceId;
use serde::{Deserialize, Serialize};

use super::{HostPattern, Section};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps text that is already known to be valid.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An account (tenant): 32 lower-case hexadecimal digits, unguessable.
    AccountId
);
text_id!(
    /// A worker's name, unique within its account.
    WorkerName
);
text_id!(
    /// One immutable version of a worker: a UUID with hyphens.
    VersionId
);
/// A worker of an account: what a route, a service binding or a schedule points at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkerRef {
    /// The account that owns the worker.
    pub account: AccountId,
    /// The worker's name in that account.
    pub worker: WorkerName,
}

/// The content type that says a module's kind in an upload.
pub(crate) fn content_type(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::EsModule => "application/javascript+module",
        ModuleKind::CommonJs => "application/javascript",
        ModuleKind::Text => "text/plain",
        ModuleKind::Data => "application/octet-stream",
        ModuleKind::Json => "application/json",
        ModuleKind::Wasm => "application/wasm",
        ModuleKind::SourceMap => "application/source-map",
    }
}

/// A name in `env` and the capability that it grants. Serialised as in the v4 API's metadata.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Binding {
    /// A string.
    PlainText {
        /// The name in `env`.
        name: String,
        /// The value.
        text: String,
    },
    /// A string that no read of the API ever shows.
    SecretText {
        /// The name in `env`.
        name: String,
        /// The value.
        #[serde(default)]
        text: String,
    },
    /// Any JSON value.
    Json {
        /// The name in `env`.
        name: String,
        /// The value.
        json: serde_json::Value,
    },
    /// A KV namespace of the same account.
    KvNamespace {
        /// The name in `env`.
        name: String,
        /// The namespace.
        namespace_id: NamespaceId,
    },
    /// Another worker of the same account.
    Service {
        /// The name in `env`.
        name: String,
        /// The worker's name.
        service: WorkerName,
        /// The exported entrypoint, when not the default export.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entrypoint: Option<String>,
        /// Given to the callee as `ctx.props`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        props: Option<serde_json::Value>,
    },
    /// `{ id, tag, timestamp }` of the running version.
    VersionMetadata {
        /// The name in `env`.
        name: String,
    },
    /// A WebAssembly module bound by name (service-worker format).
    WasmModule {
        /// The name in `env`, or the global's name.
        name: String,
        /// The module's name in the script.
        part: String,
    },
    /// Text bound by name (service-worker format).
    TextBlob {
        /// The name in `env`, or the global's name.
        name: String,
        /// The module's name in the script.
        part: String,
    },
    /// Bytes bound by name (service-worker format).
    DataBlob {
        /// The name in `env`, or the global's name.
        name: String,
        /// The module's name in the script.
        part: String,
    },
}

/// Shows no value: it may be a secret, and debug output ends in logs.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind()).field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Binding {
    /// The name in `env`.
    pub fn name(&self) -> &str {
        match self {
            Self::PlainText { name, .. }
            | Self::SecretText { name, .. }
            | Self::Json { name, .. }
            | Self::KvNamespace { name, .. }
            | Self::Service { name, .. }
            | Self::VersionMetadata { name }
            | Self::WasmModule { name, .. }
            | Self::TextBlob { name, .. }
            | Self::DataBlob { name, .. } => name,
        }
    }

    /// The `type` of the serialised form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PlainText { .. } => "plain_text",
            Self::SecretText { .. } => "secret_text",
            Self::Json { .. } => "json",
            Self::KvNamespace { .. } => "kv_namespace",
            Self::Service { .. } => "service",
            Self::VersionMetadata { .. } => "version_metadata",
            Self::WasmModule { .. } => "wasm_module",
            Self::TextBlob { .. } => "text_blob",
            Self::DataBlob { .. } => "data_blob",
        }
    }

    /// The same binding with the value of a secret taken out.
    pub fn without_secret(&self) -> Self {
        match self {
            Self::SecretText { name, .. } => {
                Self::SecretText { name: name.clone(), text: String::new() }
            }
            other => other.clone(),
        }
    }
}

/// Limits that a version asks for; absent means the node's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionLimits {
    /// CPU time of one invocation, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Subrequests of one invocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subrequests: Option<u32>,
}

/// An immutable script with its bindings and limits. Serialised without its modules: they travel beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The version's id.
    pub id: VersionId,
    /// The worker it is a version of.
    pub worker: WorkerRef,
    /// 1 for a worker's first version, then counting up.
    pub number: u64,
    /// When it was uploaded: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The syntax of the main module.
    pub format: ScriptFormat,
    /// The name of the main module.
    pub main_module: String,
    /// Every module, source maps too.
    #[serde(skip)]
    pub modules: Vec<Module>,
    /// What `env` holds.
    pub bindings: Vec<Binding>,
    /// `YYYY-MM-DD`, as uploaded.
    pub compatibility_date: Option<String>,
    /// As uploaded.
    pub compatibility_flags: Vec<String>,
    /// Limits of its own.
    pub limits: VersionLimits,
    /// `workers/message`, `workers/tag` and kin.
    pub annotations: BTreeMap<String, String>,
    /// The handlers that the script exports (`fetch`, `scheduled`), found when it was checked.
    pub handlers: Vec<String>,
    /// SHA-256 over the modules' names, kinds and contents, in hexadecimal: the ETag.
    pub content_hash: String,
    /// What start-up took when the version was checked, in milliseconds.
    pub startup_ms: u64,
}

impl Version {
    /// What a cache counts it as, in bytes: its modules, and something for the rest.
    pub(crate) fn weight(&self) -> u32 {
        let modules: usize = self.modules.iter().map(|module| module.bytes.len()).sum();
        u32::try_from(modules.saturating_add(1024)).unwrap_or(u32::MAX)
    }
}

/// Which versions of a worker serve, and with what weights (they add up to 100).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The deployment's id: a UUID with hyphens.
    pub id: String,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// One or two versions with their percentages.
    pub versions: Vec<(VersionId, f64)>,
    /// `workers/message` and kin.
    pub annotations: BTreeMap<String, String>,
}

/// A worker as the data plane needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveWorker {
    /// Which worker.
    pub worker: WorkerRef,
    /// The newest deployment.
    pub deployment: Deployment,
    /// Whether it answers at `<worker>.<subdomain>.<domain>`.
    pub workers_dev: bool,
    /// Its versions, deployed or picked by its rules, that have a script that decides about requests.
    pub deciding: Vec<VersionId>,
}

impl LiveWorker {
    /// The versions that are deployed.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &VersionId> {
        self.deployment.versions.iter().map(|(version, _)| version)
    }
}

/// One row of the route table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The route's id: 32 hexadecimal digits.
    pub id: String,
    /// The account that owns it.
    pub account: AccountId,
    /// The pattern as written.
    pub pattern: String,
    /// The worker it leads to; none takes the URL away from broader routes.
    pub worker: Option<WorkerName>,
}

/// One cron line of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The worker whose `scheduled` handler runs.
    pub worker: WorkerRef,
    /// Five fields, UTC.
    pub cron: String,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Everything that the data plane reads, swapped whole at every change. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Counts up with every change.
    pub revision: u64,
    /// Every deployed worker.
    pub workers: Section<LiveWorker>,
    /// Every route.
    pub routes: Section<Route>,
    /// Every cron line.
    pub schedules: Section<Schedule>,
    /// Accounts' subdomains: `<worker>.<subdomain>.<domain>`.
    pub subdomains: Section<(AccountId, String)>,
    /// The ids of all certificates and of what an ACME authority may ask now: what they name never changes.
    pub certificates: Arc<[String]>,
    /// The rules of workers that have some.
    pub rules: Section<WorkerRules>,
    /// Where workers may run that say something of it.
    pub regions: Section<WorkerDocument>,
    /// The origin pools of workers that have some.
    pub pools: Section<WorkerDocument>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            revision: 0,
            workers: Section::default(),
            routes: Section::default(),
            schedules: Section::default(),
            subdomains: Section::default(),
            certificates: Arc::from([]),
            rules: Section::default(),
            regions: Section::default(),
            pools: Section::default(),
        }
    }
}

/// What a worker says of one thing, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDocument {
    /// Which worker.
    pub worker: WorkerRef,
    /// The document, as JSON.
    pub document: String,
}

impl WorkerRules {
    /// The rules of a worker that has none.
    pub(crate) fn none(worker: WorkerRef) -> Self {
        let (document, overlay) = ("{}".to_owned(), "{}".to_owned());
        Self { worker, document, overlay, versions: Vec::new() }
    }
}

impl Snapshot {
    /// Whether the account has a route for the host.
    pub(crate) fn is_host_of(&self, account: &AccountId, host: &str) -> bool {
        let own = self.routes.of_account(account).iter();
        let mut patterns = own.filter_map(|route| HostPattern::of_route(&route.pattern).ok());
        patterns.any(|pattern| pattern.matches(host))
    }
}

/// A worker's rules as they travel: compiled where they are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRules {
    /// Whose they are.
    pub worker: WorkerRef,
    /// The document, as JSON.
    pub document: String,
    /// What the node adds, as JSON.
    pub overlay: String,
    /// The versions that they send requests to.
    pub versions: Vec<VersionId>,
}
