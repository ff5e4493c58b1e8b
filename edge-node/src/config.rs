//! The node's configuration file. Every key has a default, an unknown key is an error, and units
//! are part of the names. `docs/config.md` lists the keys for people.

mod acme;
mod cluster;
mod geo;
mod proxies;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use atoll_isolate::HEAPS_BYTES_CEILING;
use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use acme::AcmeConfig;
pub(crate) use acme::is_certifiable;
pub use cluster::{ClusterConfig, ClusterTlsConfig};
pub use geo::{GeoConfig, GeoNetworkConfig};
pub use proxies::{ProxiesConfig, ProxyHeader};
pub use tls::{CertificateConfig, ClientAuth, ClientConfig, TlsConfig};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Keys that have another name now.
const RENAMED: [(&str, &str); 1] = [("heap_bytes_max", "limits.memory_bytes_max")];

/// What `atoll serve --config FILE` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Where the node keeps its state. Made with mode 0700 when it is missing.
    pub data_dir: PathBuf,
    /// Where workers are served over plain HTTP/1.1 and HTTP/2.
    pub http: SocketAddr,
    /// Where workers are served over TLS.
    pub https: SocketAddr,
    /// Whether HTTP/3 is served, over UDP at the port of `https`.
    pub http3: bool,
    /// The port at which clients are told to find HTTP/3: that of `https` when absent.
    pub http3_port: Option<u16>,
    /// Where the REST API, metrics and health are served.
    pub admin: SocketAddr,
    /// Where debuggers may attach. No key of the file: it is for development, on one thread.
    #[serde(skip)]
    pub inspect: Option<SocketAddr>,
    /// Whether anybody may force variants of rules and see the reasons. No key of the file: it is for
    /// development.
    #[serde(skip)]
    pub development: bool,
    /// The domain of `<worker>.<subdomain>.<domain>`.
    pub domain: String,
    /// Threads that accept connections and run what is called often and never long; the number of cores when
    /// absent.
    pub threads: Option<NonZeroUsize>,
    /// Threads of each process that run every other worker; its share of the cores, and at least two, when
    /// absent.
    pub back_threads: Option<NonZeroUsize>,
    /// Serving processes of `atoll serve`, which share the threads; by the number of cores when absent.
    pub processes: Option<NonZeroUsize>,
    /// How long accepted work may take to finish after SIGTERM, in milliseconds.
    pub drain_ms_max: u64,
    /// Certificates.
    pub tls: TlsConfig,
    /// Who stands in front of the node.
    pub proxies: ProxiesConfig,
    /// What workers and their clients may use.
    pub limits: LimitsConfig,
    /// What isolates may hold.
    pub memory: MemoryConfig,
    /// How isolates are kept at hand.
    pub isolates: IsolatesConfig,
    /// Where workers may connect to.
    pub outbound: OutboundConfig,
    /// Where clients are.
    pub geo: GeoConfig,
    /// The key-value store.
    pub kv: KvConfig,
    /// The node's own log.
    pub log: LogConfig,
    /// What makes the node one of many; it is alone when absent.
    pub cluster: Option<ClusterConfig>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            data_dir: PathBuf::from("atoll-data"),
            http: local(8080),
            https: local(8443),
            http3: true,
            http3_port: None,
            admin: local(8787),
            inspect: None,
            development: false,
            domain: "localhost".to_owned(),
            threads: None,
            processes: None,
            back_threads: None,
            drain_ms_max: 30_000,
            tls: TlsConfig::default(),
            proxies: ProxiesConfig::default(),
            limits: LimitsConfig::default(),
            memory: MemoryConfig::default(),
            isolates: IsolatesConfig::default(),
            outbound: OutboundConfig::default(),
            geo: GeoConfig::default(),
            kv: KvConfig::default(),
            log: LogConfig::default(),
            cluster: None,
        }
    }
}

/// What all isolates of one serving process may hold together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Heaps, buffers and WebAssembly memories, in bytes; by the machine's memory when absent.
    pub process_bytes_max: Option<u64>,
    /// JS heaps alone, in bytes.
    pub heap_bytes_max: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { process_bytes_max: None, heap_bytes_max: 2_560 * MIB }
    }
}

/// How isolates are kept at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IsolatesConfig {
    /// Isolates that each thread makes ahead of need, so that a version's first request finds one.
    pub spares_per_thread: usize,
}

impl Default for IsolatesConfig {
    fn default() -> Self {
        Self { spares_per_thread: 4 }
    }
}

/// What one worker, invocation or request may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// CPU time of one invocation of a version that asks for none, in milliseconds. A worker that
    /// loops holds its thread that long, and its neighbours wait.
    pub cpu_ms: u64,
    /// The most CPU time that a version may ask for by `limits.cpu_ms`, in milliseconds.
    pub cpu_ms_max: u64,
    /// CPU time of a script's top level, in milliseconds.
    pub startup_cpu_ms_max: u64,
    /// Memory of one isolate, in bytes: its heap, its buffers and its WebAssembly memories together.
    pub memory_bytes_max: u64,
    /// Time until an invocation's response is complete, in milliseconds.
    pub wall_ms_max: u64,
    /// CPU time of a `rule` handler, in milliseconds.
    pub rule_cpu_ms: u64,
    /// Time until a `rule` handler has decided, in milliseconds.
    pub rule_wall_ms_max: u64,
    /// Time that `waitUntil` may take after the response, in milliseconds.
    pub wait_until_ms_max: u64,
    /// Subrequests of one invocation.
    pub subrequests_max: u32,
    /// Isolates that one process holds; idle ones make room for others.
    pub isolates_max: u32,
    /// Invocations of one worker that are under way at once in one process.
    pub concurrency_max: u32,
    /// Invocations of all workers of one account that are under way at once in one process.
    pub account_concurrency_max: u32,
    /// Calls of one version that wait, in one process, for it to be loaded or for a thread.
    pub queue_max: u32,
    /// Calls of one worker in a second on the whole node; 0 for no limit. Each process takes an equal part.
    pub requests_per_s_max: u32,
    /// Calls of all workers of one account in a second; 0 for no limit.
    pub account_requests_per_s_max: u32,
    /// The body of a request to a worker, in bytes.
    pub request_body_bytes_max: u64,
    /// A request's headers together, in bytes.
    pub request_header_bytes_max: usize,
    /// A request's URL, in bytes.
    pub url_bytes_max: usize,
    /// The modules of an uploaded script together, in bytes.
    pub script_bytes_max: u64,
    /// The same after gzip, in bytes.
    pub script_gzip_bytes_max: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            cpu_ms: 500,
            cpu_ms_max: 30_000,
            startup_cpu_ms_max: 1_000,
            memory_bytes_max: 128 * MIB,
            wall_ms_max: 300_000,
            rule_cpu_ms: 5,
            rule_wall_ms_max: 50,
            wait_until_ms_max: 30_000,
            subrequests_max: 1_000,
            isolates_max: 4_000,
            concurrency_max: 1_000,
            account_concurrency_max: 5_000,
            queue_max: 1_000,
            requests_per_s_max: 0,
            account_requests_per_s_max: 0,
            request_body_bytes_max: 5 * GIB,
            request_header_bytes_max: 128 << 10,
            url_bytes_max: 16 << 10,
            script_bytes_max: 64 * MIB,
            script_gzip_bytes_max: 10 * MIB,
        }
    }
}

/// Where workers may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// Networks that are not public and may be reached all the same.
    #[serde(serialize_with = "network_texts", deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
}

fn network_texts<S: Serializer>(networks: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(IpNet::to_string))
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| {
            let address = || text.parse().ok().map(|address: std::net::IpAddr| address.into());
            text.parse().ok().or_else(address).ok_or_else(|| {
                D::Error::custom(format!("{text:?} is no network: write 10.0.0.0/8"))
            })
        })
        .collect()
}

/// The key-value store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvConfig {
    /// Values kept in memory, in bytes.
    pub cache_bytes_max: u64,
    /// Threads that read from disk.
    pub readers: NonZeroUsize,
}

impl Default for KvConfig {
    fn default() -> Self {
        Self { cache_bytes_max: 64 * MIB, readers: NonZeroUsize::new(4).expect("4 is not zero") }
    }
}

/// The node's own log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list with modules.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is read but not understood.
    #[error("{path}:{line}: {what}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key and what is wrong with it.
        what: String,
    },
}

impl NodeConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Fails when the file cannot be read, or a line is not understood: the error names the file,
    /// the line and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start.min(text.len()));
            ConfigError::Parse {
                path: path.to_owned(),
                line: text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1,
                what: describe(&e, key_at(text, at)),
            }
        })?;
        config.check().map_err(|what| ConfigError::Parse {
            path: path.to_owned(),
            line: 1,
            what,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if self.domain.len() > 253 || !self.domain.split('.').all(label) {
            return Err(format!(
                "domain: {:?} is no host name of lower-case letters, digits, hyphens and dots",
                self.domain
            ));
        }
        let limits = &self.limits;
        for (key, value) in [
            ("cpu_ms", limits.cpu_ms),
            ("cpu_ms_max", limits.cpu_ms_max),
            ("startup_cpu_ms_max", limits.startup_cpu_ms_max),
            ("memory_bytes_max", limits.memory_bytes_max),
            ("wall_ms_max", limits.wall_ms_max),
            ("isolates_max", limits.isolates_max.into()),
            ("concurrency_max", limits.concurrency_max.into()),
            ("account_concurrency_max", limits.account_concurrency_max.into()),
            ("queue_max", limits.queue_max.into()),
            ("script_bytes_max", limits.script_bytes_max),
        ] {
            if value == 0 {
                return Err(format!("limits.{key}: must be more than 0"));
            }
        }
        self.tls.check()?;
        self.geo.check()?;
        self.proxies.check()?;
        self.check_memory()
    }

    fn check_memory(&self) -> Result<(), String> {
        let MemoryConfig { process_bytes_max, heap_bytes_max } = self.memory;
        let ceiling = HEAPS_BYTES_CEILING as u64;
        if heap_bytes_max > ceiling {
            return Err(format!(
                "memory.heap_bytes_max: must be {ceiling} at most, because all heaps of a process lie in one \
                 cage of 4 GiB: use more processes"
            ));
        }
        let least = self.limits.memory_bytes_max;
        for (key, bytes) in
            [("heap_bytes_max", Some(heap_bytes_max)), ("process_bytes_max", process_bytes_max)]
        {
            if bytes.is_some_and(|bytes| bytes < least) {
                return Err(format!(
                    "memory.{key}: must be at least {least}, what one isolate may hold \
                     (limits.memory_bytes_max)"
                ));
            }
        }
        Ok(())
    }
}

/// The key of the line that holds byte `at`, when the line has one.
fn key_at(text: &str, at: usize) -> Option<&str> {
    let start = text.as_bytes()[..at].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next()?;
    line.split_once('=').map(|(key, _)| key.trim())
}

fn describe(error: &toml::de::Error, key: Option<&str>) -> String {
    let message = error.message();
    if let Some(unknown) = quoted(message.strip_prefix("unknown field ").unwrap_or_default()).next()
    {
        if let Some((_, now)) = RENAMED.iter().find(|(old, _)| *old == unknown) {
            return format!("unknown key {unknown}: it is called {now} now");
        }
        let known = message.split_once("expected").map_or("", |(_, known)| known);
        return match near_miss(unknown, quoted(known)) {
            Some(near) => format!("unknown key {unknown}: did you mean {near}?"),
            None => {
                let known: Vec<&str> = quoted(known).collect();
                format!("unknown key {unknown}: expected one of {}", known.join(", "))
            }
        };
    }
    match key {
        Some(key) => format!("{key}: {message}"),
        None => message.to_owned(),
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The known word that differs least, when it is close enough to be a slip.
fn near_miss<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = word.chars().count().div_ceil(3);
    known
        .map(|candidate| (strsim::levenshtein(word, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= slips_max || candidate.starts_with(word))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodeConfig, String> {
        NodeConfig::parse(Path::new("node.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), NodeConfig::default());
    }

    #[test]
    fn the_documented_file_is_the_default() {
        let page = include_str!("../../docs/config.md");
        let toml = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
        assert_eq!(parse(toml).unwrap(), NodeConfig::default());
    }

    #[test]
    fn the_documented_cluster_is_the_default() {
        let page = include_str!("../../docs/config.md");
        let toml = page.split("```toml").nth(2).unwrap().split("```").next().unwrap();
        let default = ClusterConfig {
            nats: vec!["nats://10.0.0.1:4222".to_owned()],
            name: "node-1".to_owned(),
            ..ClusterConfig::default()
        };
        assert_eq!(parse(toml).unwrap().cluster, Some(default));
    }

    #[test]
    fn every_section_is_read() {
        let config = parse(
            r#"
            data_dir = "/var/lib/atoll"
            http = "0.0.0.0:80"
            domain = "example.com"
            threads = 3
            processes = 2
            [tls]
            certificates = [{ cert = "a.pem", key = "a.key" }]
            [[tls.client]]
            hosts = ["*.example.com"]
            ca = "ca.pem"
            auth = "required"
            [limits]
            cpu_ms_max = 50
            [outbound]
            allow = ["10.0.0.0/8", "fd00::/8"]
            [proxies]
            preamble = ["10.1.0.0/16", "10.2.3.4"]
            trusted = ["fd00::/8"]
            header = "forwarded"
            [kv]
            readers = 2
            [log]
            format = "json"
            "#,
        )
        .unwrap();
        assert_eq!(config.threads.unwrap().get(), 3);
        assert_eq!(config.processes.unwrap().get(), 2);
        assert_eq!(config.tls.certificates[0].key, PathBuf::from("a.key"));
        assert_eq!(config.tls.client[0].auth, ClientAuth::Required);
        assert_eq!(config.limits.cpu_ms_max, 50);
        assert_eq!(config.limits.memory_bytes_max, 128 * MIB);
        assert_eq!(config.outbound.allow.len(), 2);
        assert_eq!(config.proxies.preamble[1].to_string(), "10.2.3.4/32");
        assert_eq!(config.proxies.header, ProxyHeader::Forwarded);
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_key() {
        for (text, expected) in [
            ("\ndata_dri = 'x'", "node.toml:2: unknown key data_dri: did you mean data_dir?"),
            ("[limits]\ncpu_mx = 5", "node.toml:2: unknown key cpu_mx: did you mean cpu_ms?"),
            ("inspect = '127.0.0.1:9229'", "node.toml:1: unknown key inspect"),
            ("[outbound]\nqqq = 5", "node.toml:2: unknown key qqq: expected one of allow"),
            ("a = 1\nb =", "node.toml:2: b: "),
            ("http = 'here'", "node.toml:1: http: "),
            ("threads = 0", "node.toml:1: threads: "),
            ("domain = 'A b'", "node.toml:1: domain: "),
            ("[limits]\ncpu_ms = 0", "limits.cpu_ms: must be more than 0"),
            ("[limits]\ncpu_ms_max = 0", "limits.cpu_ms_max: must be more than 0"),
            (
                "[limits]\nheap_bytes_max = 5",
                "node.toml:2: unknown key heap_bytes_max: it is called limits.memory_bytes_max now",
            ),
            ("[memory]\nheap_bytes_max = 4294967296", "memory.heap_bytes_max: must be 2"),
            ("[memory]\nheap_bytes_max = 1", "memory.heap_bytes_max: must be at least 134217728"),
            ("[memory]\nprocess_bytes_max = 1", "memory.process_bytes_max: must be at least"),
            ("[[tls.client]]\nca = 'x'\nhosts = ['a b']", "tls.client.hosts: \"a b\" is no host"),
            ("[[geo.networks]]\ncidr = 'x'", "no network"),
            ("[[geo.networks]]\ncidr = '10.0.0.0/8'\ncountry = 'Germany'", "country of 10.0.0.0/8"),
            ("[geo]\ncolo = ''", "geo.colo: "),
            ("[proxies]\ntrusted = ['lb.local']", "\"lb.local\" is no network"),
            ("[proxies]\nheader = 'x-real-ip'", "node.toml:2: header: "),
            ("[log]\nformat = 'xml'", "node.toml:2: format: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?} gives {error:?}");
        }
    }
}
