//! The keys that wrangler knows, what becomes of each in a named environment, and what the node
//! does with them.

/// How a key behaves in `env.<name>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The top level's value holds unless the environment sets its own.
    Inherited,
    /// An environment starts without it.
    Own,
    /// Only the top level may set it.
    TopLevel,
}

/// What the node does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// It is honoured.
    Honoured,
    /// It changes nothing here, and nothing breaks without it.
    Ignored,
    /// The worker cannot run as meant without it: a deploy is refused.
    Refused,
}

/// One key of the configuration file.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) support: Support,
}

/// The key of that name, if wrangler has one.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn k(name: &'static str, scope: Scope, support: Support) -> Key {
    Key { name, scope, support }
}

use Scope::{Inherited, Own, TopLevel};
use Support::{Honoured, Ignored, Refused};

pub(crate) const KEYS: &[Key] = &[
    k("name", Inherited, Honoured),
    k("main", Inherited, Honoured),
    k("account_id", Inherited, Honoured),
    k("compatibility_date", Inherited, Honoured),
    k("compatibility_flags", Inherited, Honoured),
    k("route", Inherited, Honoured),
    k("routes", Inherited, Honoured),
    k("workers_dev", Inherited, Honoured),
    k("preview_urls", Inherited, Ignored),
    k("triggers", Inherited, Honoured),
    k("migrations", Inherited, Refused),
    k("limits", Inherited, Honoured),
    k("placement", Inherited, Ignored),
    k("assets", Inherited, Refused),
    k("observability", Inherited, Ignored),
    k("logpush", Inherited, Ignored),
    k("rules", Inherited, Honoured),
    k("build", Inherited, Honoured),
    k("tsconfig", Inherited, Honoured),
    k("jsx_factory", Inherited, Honoured),
    k("jsx_fragment", Inherited, Honoured),
    k("no_bundle", Inherited, Honoured),
    k("minify", Inherited, Honoured),
    k("keep_names", Inherited, Honoured),
    k("first_party_worker", Inherited, Ignored),
    k("upload_source_maps", Inherited, Ignored),
    k("find_additional_modules", Inherited, Honoured),
    k("preserve_file_names", Inherited, Honoured),
    k("base_dir", Inherited, Honoured),
    k("cache", Inherited, Ignored),
    k("compliance_region", Inherited, Ignored),
    k("atoll", Inherited, Honoured),
    k("define", Own, Honoured),
    k("vars", Own, Honoured),
    k("secrets", Own, Ignored),
    k("kv_namespaces", Own, Honoured),
    k("services", Own, Honoured),
    k("version_metadata", Own, Honoured),
    k("tail_consumers", Own, Ignored),
    k("streaming_tail_consumers", Own, Ignored),
    k("cloudchamber", Own, Ignored),
    k("d1_databases", Own, Refused),
    k("r2_buckets", Own, Refused),
    k("queues", Own, Refused),
    k("durable_objects", Own, Refused),
    k("workflows", Own, Refused),
    k("containers", Own, Refused),
    k("ratelimits", Own, Refused),
    k("analytics_engine_datasets", Own, Refused),
    k("vectorize", Own, Refused),
    k("hyperdrive", Own, Refused),
    k("ai", Own, Refused),
    k("ai_search", Own, Refused),
    k("ai_search_namespaces", Own, Refused),
    k("browser", Own, Refused),
    k("images", Own, Refused),
    k("media", Own, Refused),
    k("stream", Own, Refused),
    k("worker_loaders", Own, Refused),
    k("dispatch_namespaces", Own, Refused),
    k("mtls_certificates", Own, Refused),
    k("send_email", Own, Refused),
    k("pipelines", Own, Refused),
    k("secrets_store_secrets", Own, Refused),
    k("unsafe_hello_world", Own, Refused),
    k("unsafe", Own, Refused),
    k("logfwdr", Own, Refused),
    k("artifacts", Own, Refused),
    k("flagship", Own, Refused),
    k("vpc_services", Own, Refused),
    k("vpc_networks", Own, Refused),
    k("keep_vars", TopLevel, Honoured),
    k("alias", TopLevel, Honoured),
    k("wasm_modules", TopLevel, Honoured),
    k("text_blobs", TopLevel, Honoured),
    k("data_blobs", TopLevel, Honoured),
    k("site", TopLevel, Refused),
    k("send_metrics", TopLevel, Ignored),
    k("dev", TopLevel, Ignored),
    k("legacy_env", TopLevel, Ignored),
    k("env", TopLevel, Honoured),
    k("pages_build_output_dir", TopLevel, Ignored),
    k("configPath", TopLevel, Ignored),
    k("userConfigPath", TopLevel, Ignored),
    k("topLevelName", TopLevel, Ignored),
    k("definedEnvironments", TopLevel, Ignored),
    k("targetEnvironment", TopLevel, Ignored),
    k("python_modules", TopLevel, Ignored),
    k("$schema", TopLevel, Ignored),
];
