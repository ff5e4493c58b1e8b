//! What a supervisor and its children say to each other.

use atoll_router::{PeerCredentials, QuicKeys};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::{CheckError, CheckReport};
use crate::config::{LimitsConfig, LogConfig, MemoryConfig, NodeConfig};
use crate::dispatch::{Job, Neighbourhood, Siblings};
use crate::experiments::Batch;
use crate::observe::{Followed, MetricsDelta};
use crate::registry::{Module, ModuleKind, Version, VersionId};
use crate::report::InvocationReport;
use crate::tls::TlsBytes;

/// The first message to a serving process. The descriptors sent before it are the crash pipe, the KV
/// link, the KV store's epochs, the link of geographic databases, and for each thread its sockets for HTTP and HTTPS,
/// with HTTP/3 also for UDP and its inbox; then, in a message each, the senders of all inboxes of the node, the threads'
/// sockets for other nodes, and those for other serving processes.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServingStart {
    /// The node's configuration.
    pub(crate) config: NodeConfig,
    /// What TLS serves by.
    pub(crate) tls: TlsBytes,
    /// What QUIC needs of its threads.
    pub(crate) quic: QuicSeats,
    /// Versions that must not run now.
    pub(crate) quarantined: Vec<VersionId>,
    /// Who is followed live.
    pub(crate) followed: Followed,
    /// What the node shows to other nodes, in a cluster.
    pub(crate) credentials: Option<PeerCredentials>,
    /// The other nodes.
    pub(crate) neighbours: Neighbourhood,
    /// The process's place among all serving processes of the node, and what it knows of the others, where there are
    /// any.
    pub(crate) siblings: Option<(usize, Siblings)>,
}

/// What a process knows of QUIC on the node.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct QuicSeats {
    /// What all threads of the node have the same.
    pub(crate) keys: QuicKeys,
    /// The place of the process's first thread among all of the node.
    pub(crate) first: u16,
}

/// From the supervisor to a serving process.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToServing {
    /// How to serve. Comes once, first; the payload is what the registry's snapshot has that an empty one has not, in
    /// MessagePack.
    Start(Box<ServingStart>),
    /// The payload is what a new snapshot of the registry has that the one before has not, in MessagePack.
    Snapshot,
    /// TLS serves by this from now on.
    Tls(Box<TlsBytes>),
    /// Who is followed live now.
    Followed(Followed),
    /// What the node shows to other nodes from now on.
    Credentials(Box<PeerCredentials>),
    /// What is known of the other nodes now.
    Neighbours(Box<Neighbourhood>),
    /// What is known of the node's other serving processes now.
    Siblings(Box<Siblings>),
    /// Which versions must not run now.
    Quarantined(Vec<VersionId>),
    /// An event for a worker.
    Job(Job),
    /// What became of a wanted version; its modules' bytes are the payload.
    Version {
        /// The request's number.
        request: u64,
        /// The version, none if there is none, or why it cannot be read.
        version: Result<Option<SplitVersion>, String>,
    },
    /// Is anyone there?
    Ping(u64),
    /// Finish what was accepted, take nothing new, and end.
    Drain {
        /// How long it may take, in milliseconds.
        ms_max: u64,
    },
}

/// From a serving process to the supervisor.
#[derive(Serialize, Deserialize)]
pub(crate) enum FromServing {
    /// Every thread accepts requests.
    Ready {
        /// What confines the process, for people.
        sandbox: String,
    },
    /// The snapshot of this revision is in use.
    Applied {
        /// The revision.
        revision: u64,
    },
    /// A version is to be loaded.
    WantVersion {
        /// Numbers the answer.
        request: u64,
        /// Which.
        id: VersionId,
    },
    /// An invocation that somebody follows or the log wants.
    Report(Box<InvocationReport>),
    /// What was counted since the last time.
    Metrics(MetricsDelta),
    /// What was seen of experiments since the last time.
    Experiments(Box<Batch>),
    /// Someone is.
    Pong(u64),
    /// What was accepted is done, and everything is said.
    Drained,
}

/// The first message to a check process. One descriptor is sent before it: the crash pipe.
#[derive(Serialize, Deserialize)]
pub(crate) struct CheckStart {
    /// Limits of scripts.
    pub(crate) limits: LimitsConfig,
    /// Memory of the process.
    pub(crate) memory: MemoryConfig,
    /// The node's log.
    pub(crate) log: LogConfig,
}

/// From the supervisor to a check process.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToCheck {
    /// How to check. Comes once, first.
    Start(CheckStart),
    /// Start this script; its modules' bytes are the payload.
    Check(Box<Version>, Vec<ModulePart>),
}

/// From a check process to the supervisor.
#[derive(Serialize, Deserialize)]
pub(crate) enum FromCheck {
    /// What came of the script.
    Checked(Result<CheckReport, CheckError>),
}

/// A version without its modules' bytes, and what is to be known of these.
pub(crate) type SplitVersion = (Box<Version>, Vec<ModulePart>);

/// What is said of a module whose bytes are a part of the payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModulePart {
    name: String,
    kind: ModuleKind,
    bytes: usize,
}

/// Parts a version's modules into what the header says of them and the payload.
pub(crate) fn split_modules(version: &Version) -> (Vec<ModulePart>, Vec<Bytes>) {
    let part = |module: &Module| ModulePart {
        name: module.name.clone(),
        kind: module.kind,
        bytes: module.bytes.len(),
    };
    let parts = version.modules.iter().map(part).collect();
    (parts, version.modules.iter().map(|module| module.bytes.clone()).collect())
}

/// Gives a version its modules back. None when the payload is shorter than the header says.
pub(crate) fn join_modules(
    mut version: Version,
    parts: Vec<ModulePart>,
    mut payload: Bytes,
) -> Option<Version> {
    for ModulePart { name, kind, bytes } in parts {
        if bytes > payload.len() {
            return None;
        }
        version.modules.push(Module { name, kind, bytes: payload.split_to(bytes) });
    }
    Some(version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::registry::{
        AccountId, Binding, NamespaceId, ScriptFormat, VersionLimits, WorkerName, WorkerRef,
    };

    fn version() -> Version {
        let module = |name: &str, kind, bytes: &'static [u8]| Module {
            name: name.into(),
            kind,
            bytes: Bytes::from_static(bytes),
        };
        Version {
            id: VersionId::new("v"),
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") },
            number: 7,
            created_ms: 1,
            format: ScriptFormat::Modules,
            main_module: "index.js".into(),
            modules: vec![
                module("index.js", ModuleKind::EsModule, b"export default {}"),
                module("empty", ModuleKind::Text, b""),
                module("data", ModuleKind::Data, b"\0\xff"),
            ],
            bindings: vec![
                Binding::SecretText { name: "S".into(), text: "hush".into() },
                Binding::Json {
                    name: "J".into(),
                    json: serde_json::json!({ "a": [1, -2, 1.5, null, true, u64::MAX, "x"] }),
                },
                Binding::KvNamespace {
                    name: "K".into(),
                    namespace_id: NamespaceId::parse(&"0".repeat(32)).unwrap(),
                },
            ],
            compatibility_date: Some("2026-01-01".into()),
            compatibility_flags: vec!["x".into()],
            limits: VersionLimits { cpu_ms: Some(5), subrequests: None },
            annotations: BTreeMap::from([("workers/tag".into(), "t".into())]),
            handlers: vec!["fetch".into()],
            content_hash: "h".into(),
            startup_ms: 3,
        }
    }

    #[test]
    fn a_version_arrives_whole_with_its_secrets_and_bytes() {
        let sent = version();
        let (parts, payload) = split_modules(&sent);
        let message =
            ToServing::Version { request: 1, version: Ok(Some((Box::new(sent.clone()), parts))) };
        let bytes = rmp_serde::to_vec_named(&message).unwrap();
        let ToServing::Version { version: Ok(Some((version, parts))), .. } =
            rmp_serde::from_slice(&bytes).unwrap()
        else {
            panic!("another message arrived");
        };
        let payload = Bytes::from(payload.concat());
        let short = payload.slice(1..);
        assert!(join_modules((*version).clone(), parts.clone(), short).is_none());
        let received = join_modules(*version, parts, payload).unwrap();
        assert_eq!(received.bindings, sent.bindings);
        assert_eq!(received.annotations, sent.annotations);
        let contents = |version: &Version| {
            let each = version.modules.iter();
            each.map(|m| (m.name.clone(), m.kind, m.bytes.clone())).collect::<Vec<_>>()
        };
        assert_eq!(contents(&received), contents(&sent));
    }

    #[test]
    fn the_configuration_arrives_as_it_was_read() {
        let mut config = NodeConfig::default();
        config.outbound.allow = vec!["10.0.0.0/8".parse().unwrap()];
        let bytes = rmp_serde::to_vec_named(&config).unwrap();
        assert_eq!(rmp_serde::from_slice::<NodeConfig>(&bytes).unwrap(), config);
    }
}
