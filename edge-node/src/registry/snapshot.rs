//! Builds the whole state that the data plane reads.

use rusqlite::Transaction;

use super::database::from_sql;
use super::{
    AccountId, LiveWorker, RegistryError, Route, Schedule, Snapshot, VersionId, WorkerName,
    WorkerRef, WorkerRules, acme, certificates, deployments, pools, regions, routes, rules,
};

pub(super) fn build(view: &Transaction<'_>) -> Result<Snapshot, RegistryError> {
    let revision = view.query_row("SELECT revision FROM node", [], |row| row.get(0))?;
    let (workers, rules) = (workers(view)?, rules::all(view)?);
    let deciding = deciding(view, &workers, &rules)?;
    Ok(Snapshot {
        revision: from_sql(revision),
        workers,
        deciding,
        routes: all_routes(view)?,
        schedules: schedules(view)?,
        subdomains: subdomains(view)?,
        certificates: [certificates::ids(view)?, acme::ids(view)?].concat(),
        rules,
        regions: regions::all(view)?,
        pools: pools::all(view)?,
    })
}

/// The versions that have a `rule` handler, of those that serve.
fn deciding(
    view: &Transaction<'_>,
    workers: &[LiveWorker],
    rules: &[WorkerRules],
) -> Result<Vec<VersionId>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT 1 FROM version v WHERE v.id = ?1 AND instr(v.meta, '\"rule\"') > 0
         AND EXISTS (SELECT 1 FROM json_each(v.meta, '$.handlers') WHERE value = 'rule')",
    )?;
    let deployed = workers.iter().flat_map(|live| live.deployment.versions.iter().map(|(v, _)| v));
    let picked = rules.iter().flat_map(|rules| &rules.versions);
    let mut found = Vec::new();
    for version in deployed.chain(picked) {
        if statement.exists([version.as_str()])? {
            found.push(version.clone());
        }
    }
    Ok(found)
}

fn workers(view: &Transaction<'_>) -> Result<Vec<LiveWorker>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT d.*, w.workers_dev FROM worker w
         JOIN deployment d ON d.sequence = (
             SELECT max(sequence) FROM deployment
             WHERE account = w.account AND worker = w.name)
         ORDER BY w.account, w.name",
    )?;
    let rows = statement.query_map([], |row| {
        let worker = WorkerRef {
            account: AccountId::new(row.get::<_, String>("account")?),
            worker: WorkerName::new(row.get::<_, String>("worker")?),
        };
        Ok((worker, row.get("workers_dev")?, deployments::Stored::from_row(row)?))
    })?;
    rows.map(|row| {
        let (worker, workers_dev, deployment) = row?;
        Ok(LiveWorker { worker, deployment: deployment.parse()?, workers_dev })
    })
    .collect()
}

fn all_routes(view: &Transaction<'_>) -> Result<Vec<Route>, RegistryError> {
    let mut statement = view.prepare_cached("SELECT * FROM route ORDER BY pattern")?;
    let rows = statement.query_map([], routes::from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn schedules(view: &Transaction<'_>) -> Result<Vec<Schedule>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT account, worker, cron, created_ms FROM schedule ORDER BY account, worker, position",
    )?;
    let rows = statement.query_map([], |row| {
        let worker = WorkerRef {
            account: AccountId::new(row.get::<_, String>(0)?),
            worker: WorkerName::new(row.get::<_, String>(1)?),
        };
        Ok(Schedule { worker, cron: row.get(2)?, created_ms: from_sql(row.get(3)?) })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn subdomains(view: &Transaction<'_>) -> Result<Vec<(AccountId, String)>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT id, subdomain FROM account WHERE subdomain IS NOT NULL ORDER BY id",
    )?;
    let rows = statement
        .query_map([], |row| Ok((AccountId::new(row.get::<_, String>(0)?), row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
