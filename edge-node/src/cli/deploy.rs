//! `atoll deploy`: bundles a project and puts it on a node.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args::DeployArgs;
use super::error::CliError;
use super::nodes;
use super::prepare::{Prepared, Source};
use super::publish::{self, Options, Published};
use super::session::Session;
use super::terminal::Terminal;
use crate::bundle::{Bundle, Purpose};
use crate::project::ProjectBinding;
use crate::registry::{Binding, ModuleKind};

pub(crate) async fn run(session: &Session, args: DeployArgs) -> Result<(), CliError> {
    let source = Source {
        path: args.dir,
        project: args.project,
        purpose: Purpose::Deploy,
        minify: args.minify,
        compatibility_date: args.compatibility_date,
    };
    let mut prepared = source.prepare(session).await?;
    prepared.set_vars(args.vars);
    if let Some(outdir) = &args.outdir {
        write_modules(outdir, &prepared.bundle)?;
    }
    let sizes = publish::sizes(&prepared.bundle).await;
    if args.dry_run {
        report_dry_run(session.terminal, &prepared, sizes);
        return Ok(());
    }
    let api = session.api_for(Some(&prepared.project)).await?;
    let options = Options { keep_vars: args.keep_vars, message: args.message };
    let name = prepared.name.clone();
    let crons = prepared.project.crons.clone().unwrap_or_default();
    let spinner = session.terminal.spinner(format!("deploying {name} to {}", api.client.base()));
    let regions = prepared.project.regions.clone();
    let pools = prepared.project.pools.clone().unwrap_or_default();
    let published = publish::publish(&api, prepared, options, session.terminal).await;
    drop(spinner);
    let published = published?;
    report(session.terminal, &name, &published, sizes, &crons);
    if let Some(regions) = regions.filter(|_| !session.terminal.json) {
        session.terminal.line(format!("  regions: {}", regions.policy));
    }
    for pool in pools.iter().filter(|_| !session.terminal.json) {
        let (host, steering, count) = (&pool.host, pool.steering, pool.origins.len());
        session.terminal.line(format!("  pool for {host}: {steering} of {count} origins"));
    }
    Ok(())
}

/// Writes the modules under their names into a folder.
fn write_modules(outdir: &Path, bundle: &Bundle) -> Result<(), CliError> {
    for module in &bundle.modules {
        let path = outdir.join(module.name.trim_start_matches("./"));
        let dir = path.parent().unwrap_or(outdir);
        std::fs::create_dir_all(dir).map_err(CliError::at(dir))?;
        std::fs::write(&path, &module.bytes).map_err(CliError::at(&path))?;
    }
    Ok(())
}

fn report_dry_run(terminal: Terminal, prepared: &Prepared, (raw, gzip): (usize, usize)) {
    let modules = || prepared.bundle.modules.iter();
    if terminal.json {
        let modules = modules().map(|m| json!({ "name": m.name, "bytes": m.bytes.len() }));
        let bindings = prepared.project.bindings.iter().map(ProjectBinding::name);
        terminal.json(&json!({
            "worker": prepared.name,
            "dry_run": true,
            "modules": modules.collect::<Vec<_>>(),
            "bindings": bindings.collect::<Vec<_>>(),
            "bytes": raw,
            "gzip_bytes": gzip,
        }));
        return;
    }
    let rows = modules()
        .filter(|m| m.kind != ModuleKind::SourceMap)
        .map(|m| vec![m.name.clone(), format!("{:?}", m.kind), bytes(m.bytes.len())]);
    terminal.table(&["module", "kind", "size"], rows.collect());
    terminal.line(format!("{} ({} gzip)", bytes(raw), bytes(gzip)));
    terminal.line("nothing was deployed (--dry-run)");
}

fn report(
    terminal: Terminal,
    name: &str,
    published: &Published,
    (raw, gzip): (usize, usize),
    crons: &[String],
) {
    let Published { version, startup_ms, upload, urls, bindings, nodes } = published;
    if terminal.json {
        terminal.json(&json!({
            "worker": name,
            "version_id": version,
            "urls": urls,
            "crons": crons,
            "bindings": bindings.iter().map(shown_binding).map(|[name, kind, value]| {
                json!({ "name": name, "type": kind, "value": value })
            }).collect::<Vec<_>>(),
            "bytes": raw,
            "gzip_bytes": gzip,
            "upload_ms": millis(*upload),
            "startup_ms": startup_ms,
            "nodes": nodes.iter().map(|(name, serves)| {
                json!({ "name": name, "status": if *serves { "ok" } else { "straggler" } })
            }).collect::<Vec<_>>(),
        }));
        return;
    }
    if !bindings.is_empty() {
        let rows = bindings.iter().map(|b| shown_binding(b).to_vec()).collect();
        terminal.table(&["binding", "type", "value"], rows);
    }
    let startup = startup_ms.map(|ms| format!(", started in {ms} ms")).unwrap_or_default();
    terminal.line(format!(
        "{} {name}: {} ({} gzip), uploaded in {} ms{startup}",
        terminal.green("deployed"),
        bytes(raw),
        bytes(gzip),
        millis(*upload),
    ));
    urls.iter().for_each(|url| terminal.line(format!("  {}", terminal.cyan(url))));
    crons.iter().for_each(|cron| terminal.line(format!("  schedule: {cron}")));
    if let Some(version) = version {
        terminal.line(format!("  version {version}"));
    }
    nodes::report(terminal, nodes);
}

/// Name, kind and value of a binding; secrets stay unseen.
fn shown_binding(binding: &Binding) -> [String; 3] {
    let json = serde_json::to_value(binding).unwrap_or_default();
    let kind = json["type"].as_str().unwrap_or_default().to_owned();
    let value = match binding {
        Binding::PlainText { text, .. } => text.clone(),
        Binding::Json { json, .. } => json.to_string(),
        Binding::KvNamespace { namespace_id, .. } => namespace_id.to_string(),
        Binding::Service { service, .. } => service.to_string(),
        _ => String::new(),
    };
    [binding.name().to_owned(), kind, value]
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A size for people.
pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}
