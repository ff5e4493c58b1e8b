//! Builds the state that the data plane reads: whole, or from the one before and what has changed since.

use std::sync::Arc;

use rusqlite::{Row, Transaction, params};

use super::database::from_sql;
use super::{
    AccountId, Difference, LiveWorker, Owner, RegistryError, Route, Schedule, Section, Snapshot,
    VersionId, WorkerDocument, WorkerName, WorkerRef, WorkerRules, acme, certificates, deployments,
    from_json, pools, regions, routes, touched, worker_document,
};

/// Owners whose rows are read one by one. Where more have changed, everything is read.
const OWNERS_MAX: usize = 256;

/// The whole state, as a connection sees it.
pub(super) fn build(view: &Transaction<'_>) -> Result<Snapshot, RegistryError> {
    let all = Rows { view, of: None };
    let rules = all.rules()?.into();
    Ok(Snapshot {
        revision: revision(view)?,
        workers: all.workers(&rules)?.into(),
        routes: all.routes()?.into(),
        schedules: all.schedules()?.into(),
        subdomains: all.subdomains()?.into(),
        certificates: certificates(view)?,
        rules,
        regions: all.documents(regions::KEY)?.into(),
        pools: all.documents(pools::KEY)?.into(),
    })
}

/// The state after what the transaction, on the writing connection, has done to `before`. What has not changed is
/// shared.
pub(super) fn next(
    transaction: &Transaction<'_>,
    before: &Snapshot,
) -> Result<Snapshot, RegistryError> {
    let touched = touched::take(transaction)?;
    if touched.owners.len() > OWNERS_MAX {
        let whole = build(transaction)?;
        return Ok(before.with(whole.since(before)).expect("it builds on this revision"));
    }
    let mut difference = Difference {
        before: before.revision,
        revision: revision(transaction)?,
        ..Difference::default()
    };
    if touched.certificates {
        difference.certificates = Some(certificates(transaction)?);
    }
    for owner in touched.owners {
        let own = Rows { view: transaction, of: Some(&owner) };
        let rules = own.rules()?;
        difference.workers.insert(owner.clone(), own.workers(&rules.clone().into())?);
        difference.rules.insert(owner.clone(), rules);
        difference.routes.insert(owner.clone(), own.routes()?);
        difference.schedules.insert(owner.clone(), own.schedules()?);
        difference.subdomains.insert(owner.clone(), own.subdomains()?);
        difference.regions.insert(owner.clone(), own.documents(regions::KEY)?);
        difference.pools.insert(owner.clone(), own.documents(pools::KEY)?);
    }
    Ok(before.with(difference).expect("it builds on this revision"))
}

fn revision(view: &Transaction<'_>) -> Result<u64, RegistryError> {
    let revision =
        view.prepare_cached("SELECT revision FROM node")?.query_row([], |row| row.get(0))?;
    Ok(from_sql(revision))
}

fn certificates(view: &Transaction<'_>) -> Result<Arc<[String]>, RegistryError> {
    Ok([certificates::ids(view)?, acme::ids(view)?].concat().into())
}

/// Rows of one owner, or of all.
struct Rows<'a> {
    view: &'a Transaction<'a>,
    of: Option<&'a Owner>,
}

impl Rows<'_> {
    fn workers(&self, rules: &Section<WorkerRules>) -> Result<Vec<Arc<LiveWorker>>, RegistryError> {
        let select = "SELECT d.*, w.workers_dev FROM worker w
             JOIN deployment d ON d.sequence = (
                 SELECT max(sequence) FROM deployment
                 WHERE account = w.account AND worker = w.name)
             WHERE TRUE";
        self.read(select, ["w.account", "w.name"], "", |row| {
            let worker = worker(row, "worker")?;
            let deployment = deployments::Stored::from_row(row)?.parse()?;
            let picked = rules.of(&Owner::from(&worker)).iter().flat_map(|rules| &rules.versions);
            let versions = deployment.versions.iter().map(|(version, _)| version).chain(picked);
            let deciding = self.deciding(versions)?;
            Ok(LiveWorker { worker, deployment, workers_dev: row.get("workers_dev")?, deciding })
        })
    }

    /// Those of the versions that have a `rule` handler.
    fn deciding<'v>(
        &self,
        versions: impl Iterator<Item = &'v VersionId>,
    ) -> Result<Vec<VersionId>, RegistryError> {
        let mut statement = self.view.prepare_cached(
            "SELECT 1 FROM version v WHERE v.id = ?1 AND instr(v.meta, '\"rule\"') > 0
             AND EXISTS (SELECT 1 FROM json_each(v.meta, '$.handlers') WHERE value = 'rule')",
        )?;
        let mut found = Vec::new();
        for version in versions {
            if statement.exists([version.as_str()])? {
                found.push(version.clone());
            }
        }
        Ok(found)
    }

    fn routes(&self) -> Result<Vec<Arc<Route>>, RegistryError> {
        let select = "SELECT * FROM route WHERE TRUE";
        self.read(select, ["account", "worker"], ", pattern", |row| Ok(routes::from_row(row)?))
    }

    fn schedules(&self) -> Result<Vec<Arc<Schedule>>, RegistryError> {
        let select = "SELECT account, worker, cron, created_ms FROM schedule WHERE TRUE";
        self.read(select, ["account", "worker"], ", position", |row| {
            let (worker, created_ms) = (worker(row, "worker")?, from_sql(row.get("created_ms")?));
            Ok(Schedule { worker, cron: row.get("cron")?, created_ms })
        })
    }

    fn subdomains(&self) -> Result<Vec<Arc<(AccountId, String)>>, RegistryError> {
        let select = "SELECT id, subdomain FROM account WHERE subdomain IS NOT NULL";
        self.read(select, ["id", "NULL"], "", |row| {
            Ok((AccountId::new(row.get::<_, String>("id")?), row.get("subdomain")?))
        })
    }

    fn rules(&self) -> Result<Vec<Arc<WorkerRules>>, RegistryError> {
        let select = "SELECT account, worker, document, overlay, versions FROM rules WHERE TRUE";
        self.read(select, ["account", "worker"], "", |row| {
            let versions = from_json("the versions of rules", &row.get::<_, String>("versions")?)?;
            Ok(WorkerRules {
                worker: worker(row, "worker")?,
                document: row.get("document")?,
                overlay: row.get("overlay")?,
                versions,
            })
        })
    }

    /// Documents among workers' settings.
    fn documents(&self, key: &str) -> Result<Vec<Arc<WorkerDocument>>, RegistryError> {
        let select = format!(
            "SELECT account, name, json_extract(settings, '{}') AS document FROM worker
             WHERE document IS NOT NULL",
            worker_document::path(key),
        );
        self.read(&select, ["account", "name"], "", |row| {
            Ok(WorkerDocument { worker: worker(row, "name")?, document: row.get("document")? })
        })
    }

    /// Reads what `select` finds, whose owner is in these columns, in the order of owners and then `further`.
    fn read<T>(
        &self,
        select: &str,
        [account, worker]: [&str; 2],
        further: &str,
        item: impl Fn(&Row<'_>) -> Result<T, RegistryError>,
    ) -> Result<Vec<Arc<T>>, RegistryError> {
        let own = match self.of {
            None => String::new(),
            Some(_) => format!("AND {account} = ?1 AND {worker} IS ?2"),
        };
        let sql = format!("{select} {own} ORDER BY {account}, {worker}{further}");
        let mut statement = self.view.prepare_cached(&sql)?;
        let mut rows = match self.of {
            None => statement.query([])?,
            Some(Owner { account, worker }) => statement
                .query(params![account.as_str(), worker.as_ref().map(WorkerName::as_str)])?,
        };
        let mut items = Vec::new();
        while let Some(row) = rows.next()? {
            items.push(Arc::new(item(row)?));
        }
        Ok(items)
    }
}

/// The worker of a row, whose name is in this column.
fn worker(row: &Row<'_>, name: &str) -> rusqlite::Result<WorkerRef> {
    Ok(WorkerRef {
        account: AccountId::new(row.get::<_, String>("account")?),
        worker: WorkerName::new(row.get::<_, String>(name)?),
    })
}

#[cfg(test)]
mod tests {
    use atoll_router::{Challenge, ChallengeKind};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::registry::{Deploy, Registry, SubdomainSettings, test_version};

    /// One change of one of three workers of one of two accounts. It may be refused.
    fn change(registry: &Registry, accounts: &[AccountId; 2], (kind, of, more): (u8, u8, u8)) {
        let account = &accounts[usize::from(of % 2)];
        let worker =
            WorkerRef { account: account.clone(), worker: WorkerName::new(format!("w{}", of % 3)) };
        let pattern = format!("{of}.{}/*", more % 3);
        let decides = if more % 2 == 0 { "fetch" } else { "rule" };
        let _ = match kind {
            0..4 => {
                let version = test_version(account, worker.worker.as_str(), "", Vec::new());
                let version = super::super::Version { handlers: vec![decides.into()], ..version };
                let deploy = if kind == 0 { Deploy::Later } else { Deploy::Now };
                registry.add_version(version, deploy).map(drop)
            }
            4 => registry.versions(&worker).map(|versions| {
                let id = versions[usize::from(more) % versions.len()].id.clone();
                registry.deploy(&worker, vec![(id, 100.0)], Default::default()).unwrap();
            }),
            5 => registry.delete_worker(&worker),
            6 => registry.replace_routes(&worker, &[pattern]).map(drop),
            7 => registry.add_route(account, &pattern, None).map(drop),
            8 => {
                let route = registry.snapshot().routes.last().map(|route| route.id.clone());
                let id = route.unwrap_or_default();
                registry.update_route(account, &id, &pattern, Some(&worker.worker)).map(drop)
            }
            9 => registry.set_subdomain(account, &format!("s{}", more % 3)),
            10 => registry.replace_schedules(&worker, &[format!("{} * * * *", more % 60)]),
            11 => registry
                .set_regions(&worker, &serde_json::from_value(json!({ "pin": "eu" })).unwrap()),
            12 => registry.set_worker_settings(&worker, &json!({})),
            13 => {
                let enabled = more % 2 == 0;
                let settings = SubdomainSettings { enabled, previews_enabled: false };
                registry.set_worker_subdomain(&worker, settings)
            }
            14 => registry.versions(&worker).and_then(|versions| {
                let version = &versions[usize::from(more) % versions.len()].id;
                let rules = json!({ "rule": [{ "name": "r", "version": version }] });
                registry.set_rules(&worker, &rules).map(drop)
            }),
            _ => {
                let kind = ChallengeKind::TlsAlpn01;
                let (host, token, answer) = ("a.test".into(), more.to_string(), "k".into());
                registry.add_acme_challenge(&Challenge { kind, host, token, answer }).map(drop)
            }
        };
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_changes_lead_to_is_what_is_read_anew(
            changes in proptest::collection::vec((0..16u8, 0..6u8, any::<u8>()), 1..40),
            told_at in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let registry = Registry::open(dir.path()).unwrap();
            let accounts = ["a", "b"].map(|name| registry.create_account(name, Some(name)).unwrap().id);
            let mut follower = Snapshot::default();
            for (step, told) in changes.into_iter().zip(told_at) {
                change(&registry, &accounts, step);
                let snapshot = registry.snapshot();
                prop_assert_eq!(&*snapshot, &registry.read(build).unwrap(), "{:?}", step);
                if told {
                    follower = follower.with(snapshot.since(&follower)).unwrap();
                    prop_assert_eq!(&follower, &*snapshot);
                }
            }
        }
    }
}
