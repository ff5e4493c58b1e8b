//! What the commands take from the process's environment, read once.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::bundle::EsbuildSource;

/// Everything that the environment says.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `ATOLL_API_URL`, `ATOLL_API_TOKEN`, `ATOLL_ACCOUNT_ID`.
    pub atoll: ApiVariables,
    /// `CLOUDFLARE_API_BASE_URL`, `CLOUDFLARE_API_TOKEN`, `CLOUDFLARE_ACCOUNT_ID`, as wrangler
    /// reads them.
    pub cloudflare: ApiVariables,
    /// Where the user's settings lie.
    pub config_dir: Option<PathBuf>,
    /// Where what can be made again lies.
    pub cache_dir: Option<PathBuf>,
    /// `PATH`.
    pub search_path: Option<OsString>,
    /// `ATOLL_ESBUILD`: the bundler to use.
    pub esbuild: Option<PathBuf>,
    /// `NO_COLOR` is set.
    pub no_color: bool,
    /// How this program was called.
    pub command_line: Vec<OsString>,
    /// What processes that run tenants' code get of the environment, and nothing else.
    pub of_children: Vec<(OsString, OsString)>,
}

/// Where certificate authorities and shared libraries lie, and how a panic is shown.
const OF_CHILDREN: [&str; 4] =
    ["SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];

/// How to reach a node and as whom.
#[derive(Clone, Debug, Default)]
pub struct ApiVariables {
    /// The API's base address.
    pub url: Option<String>,
    /// The API token.
    pub token: Option<String>,
    /// The account.
    pub account: Option<String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn from_process() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let below_home = |dir: &str| home.as_ref().map(|home| home.join(dir));
        Self {
            atoll: ApiVariables {
                url: text("ATOLL_API_URL"),
                token: text("ATOLL_API_TOKEN"),
                account: text("ATOLL_ACCOUNT_ID"),
            },
            cloudflare: ApiVariables {
                url: text("CLOUDFLARE_API_BASE_URL"),
                token: text("CLOUDFLARE_API_TOKEN"),
                account: text("CLOUDFLARE_ACCOUNT_ID"),
            },
            config_dir: path("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
            cache_dir: path("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
            search_path: env::var_os("PATH"),
            esbuild: path("ATOLL_ESBUILD"),
            no_color: text("NO_COLOR").is_some(),
            command_line: env::args_os().collect(),
            of_children: OF_CHILDREN
                .iter()
                .filter_map(|name| Some(((*name).into(), env::var_os(name)?)))
                .collect(),
        }
    }

    /// Where the bundler comes from.
    pub(crate) fn esbuild_source(&self) -> EsbuildSource {
        EsbuildSource {
            explicit: self.esbuild.clone(),
            search_path: self.search_path.clone(),
            cache_dir: self.cache_dir.as_ref().map(|dir| dir.join("atoll")),
        }
    }
}
