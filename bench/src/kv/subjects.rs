//! The stores that are measured beside each other.

use serde::Serialize;

use super::plan::Target;
use crate::servers::{Cluster, Redis, Site, StoreNode, deploy_store};

/// Streams that the bare engine's keys are spread over: as many as a node's shards.
const STREAMS: usize = 16;

/// Stores that run at the same time and are measured in turn.
pub(super) type Group = &'static [Subject];

/// The stores of one node, and those of a cluster. An idle cluster is not quite idle, so it does not run beside
/// the others.
pub(super) const GROUPS: [Group; 2] =
    [&[Subject::Node, Subject::Redis, Subject::Sqlite], &[Subject::Cluster, Subject::JetStream]];

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    /// A node of its own.
    Node,
    /// Three nodes and three NATS servers; one node is asked.
    Cluster,
    Redis,
    /// The engine of a node of its own.
    Sqlite,
    /// The engine of a cluster.
    JetStream,
}

impl Subject {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Node => "atoll, one node",
            Self::Cluster => "atoll, cluster",
            Self::Redis => "redis",
            Self::Sqlite => "sqlite (engine)",
            Self::JetStream => "jetstream (engine)",
        }
    }

    /// What an Atoll store stands on.
    pub(super) fn engine(self) -> Option<Self> {
        match self {
            Self::Node => Some(Self::Sqlite),
            Self::Cluster => Some(Self::JetStream),
            _ => None,
        }
    }

    /// Whether server and generator have a core each. The processes of a cluster, and a store inside the
    /// generator, take what is free.
    pub(super) fn is_pinned(self) -> bool {
        matches!(self, Self::Node | Self::Redis)
    }
}

/// Stores that run.
pub(super) struct Subjects<'a> {
    all: Vec<Subject>,
    node: Option<StoreNode>,
    redis: Option<Redis>,
    cluster: Option<(Cluster<'a>, &'static str)>,
    sqlite: tempfile::TempDir,
    notes: Vec<String>,
}

impl<'a> Subjects<'a> {
    /// Starts what the group needs. Without Redis the others are measured all the same.
    pub(super) fn start(site: &'a Site, group: Group) -> Result<Self, String> {
        let mut subjects = Self {
            all: group.to_vec(),
            node: None,
            redis: None,
            cluster: None,
            sqlite: tempfile::tempdir().map_err(|error| error.to_string())?,
            notes: Vec::new(),
        };
        if group.contains(&Subject::Node) {
            subjects.node = Some(StoreNode::start(site)?);
        }
        if group.contains(&Subject::Redis) {
            match Redis::version() {
                Ok(version) => {
                    subjects.redis = Some(Redis::start(site)?);
                    subjects.notes.push(format!("Redis {version}, on the same core as the node."));
                }
                Err(why) => {
                    subjects.all.retain(|subject| *subject != Subject::Redis);
                    subjects.notes.push(format!("Redis was not measured: {why}."));
                }
            }
        }
        if group.contains(&Subject::Cluster) {
            let cluster = Cluster::start(site)?;
            let (host, _) = deploy_store(site, &mut cluster.nodes()[0].api()?)?;
            subjects.cluster = Some((cluster, host));
            subjects.notes.push(
                "The cluster's three nodes and three servers, and the generator beside them, share all cores of \
                 this machine."
                    .to_owned(),
            );
        }
        Ok(subjects)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Subject> {
        self.all.clone().into_iter()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    pub(super) fn target(&self, subject: Subject) -> Result<Target, String> {
        let missing = || format!("{} does not run", subject.name());
        Ok(match subject {
            Subject::Node => {
                let node = self.node.as_ref().ok_or_else(missing)?;
                Target::Worker { address: node.address, host: node.host.to_owned() }
            }
            Subject::Cluster => {
                let (cluster, host) = self.cluster.as_ref().ok_or_else(missing)?;
                Target::Worker { address: cluster.nodes()[0].http(), host: (*host).to_owned() }
            }
            Subject::Redis => {
                Target::Redis { address: self.redis.as_ref().ok_or_else(missing)?.address }
            }
            Subject::Sqlite => Target::Sqlite { directory: self.sqlite.path().to_owned() },
            Subject::JetStream => {
                let (cluster, _) = self.cluster.as_ref().ok_or_else(missing)?;
                Target::JetStream { urls: cluster.urls(), streams: STREAMS }
            }
        })
    }
}
