//! `atoll dev`: a project on a node of its own, redeployed at every save.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::api::Api;
use super::args::DevArgs;
use super::error::CliError;
use super::events;
use super::local_node::{LocalNode, LocalNodeOptions, free_port};
use super::prepare::Source;
use super::publish::{self, Options, Published};
use super::session::Session;
use super::stop;
use super::watch::Watch;
use crate::bundle::Purpose;
use crate::observe::Heard;
use crate::project::local_variables;

/// Where a project keeps the state of its own node.
const DATA_DIR: &str = ".atoll";

/// This machine itself.
fn loopback() -> Vec<IpNet> {
    let four = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![four.into(), IpAddr::from(Ipv6Addr::LOCALHOST).into()]
}

pub(crate) async fn run(session: &Session, args: DevArgs) -> Result<(), CliError> {
    let source = Source {
        path: args.dir,
        project: args.project,
        purpose: Purpose::Develop,
        minify: false,
        compatibility_date: None,
    };
    if let Some(address) = args.inspect.filter(|address| !address.ip().is_loopback()) {
        let warning = format!("whoever reaches {address} can run code in the worker");
        session.terminal.warn(warning);
    }
    let project_dir = source.read()?.dir;
    let node = LocalNode::start(LocalNodeOptions {
        data_dir: project_dir.join(DATA_DIR),
        http_port: free_port(args.port),
        https_port: free_port(args.https_port),
        admin_port: 0,
        inspect: args.inspect,
        // The developer's own code beside the developer's own servers.
        reach: loopback(),
    })
    .await?;
    let (api, inspected) = (node.api(), args.inspect.is_some());
    let dev = Dev { session, source, vars: args.vars, api, project_dir, inspected };
    let outcome = dev.serve(&node).await;
    session.terminal.note("stopping");
    node.drain().await;
    outcome
}

struct Dev<'a> {
    session: &'a Session,
    source: Source,
    vars: Vec<(String, String)>,
    api: Api,
    project_dir: PathBuf,
    inspected: bool,
}

impl Dev<'_> {
    /// Serves until Ctrl-C.
    async fn serve(&self, node: &LocalNode) -> Result<(), CliError> {
        let terminal = self.session.terminal;
        let mut watch = Watch::new()?;
        let (mut reports, mut console) = (node.reports(), node.console());
        let mut debugger = node.debugger();
        let mut announced = Vec::new();
        self.deploy(&mut watch, &mut announced).await;
        let stop = stop::asked();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = watch.changed() => tokio::select! {
                    () = &mut stop => return Ok(()),
                    () = self.deploy(&mut watch, &mut announced) => {}
                },
                report = reports.next() => match report {
                    Some(Heard::Report(report)) => {
                        terminal.line(events::summary(terminal, &report, &self.project_dir));
                    }
                    Some(Heard::Missed(missed)) => {
                        terminal.warn(format!("{missed} invocations are not shown"));
                    }
                    None => {
                        return Err(CliError::Failed("the node has stopped: see its log above".into()));
                    }
                },
                url = newest(&mut debugger) => {
                    terminal.line(format!("debugger listening on {}", terminal.cyan(&url)));
                }
                line = console.recv() => match line {
                    Ok(line) => terminal.line(events::console(terminal, &line.1)),
                    Err(RecvError::Lagged(missed)) => {
                        terminal.warn(format!("{missed} console lines are not shown"));
                    }
                    Err(RecvError::Closed) => {
                        return Err(CliError::Failed("the node has stopped: see its log above".into()));
                    }
                },
            }
        }
    }

    /// Deploys what is on disk. When that fails, the last good version goes on serving.
    async fn deploy(&self, watch: &mut Watch, announced: &mut Vec<String>) {
        let terminal = self.session.terminal;
        let started = std::time::Instant::now();
        let mut inputs = self.settings_files();
        let read_at = match self.try_deploy(&mut inputs).await {
            Ok((published, read_at)) => {
                let ms = started.elapsed().as_millis();
                terminal.line(format!("{} in {ms} ms", terminal.green("ready")));
                if published.urls != *announced {
                    let lines = published.urls.iter().map(|url| terminal.cyan(url));
                    lines.for_each(|url| terminal.line(format!("  {url}")));
                    *announced = published.urls;
                }
                read_at
            }
            Err(error) => {
                terminal.error(error.to_string());
                if !announced.is_empty() {
                    terminal.note("the last good version goes on serving; save again to retry");
                }
                SystemTime::now()
            }
        };
        if let Err(error) = watch.set(inputs, read_at) {
            terminal.error(error.to_string());
        }
    }

    /// Deploys, and says when the sources were read. `inputs` gets what it was made from.
    async fn try_deploy(
        &self,
        inputs: &mut Vec<PathBuf>,
    ) -> Result<(Published, SystemTime), CliError> {
        let project = self.source.read()?;
        // Named before bundling, so that a broken entry can be mended by saving it.
        inputs.push(project.config_path);
        inputs.extend(project.main);
        inputs.extend(project.rules.and_then(|rules| rules.path));
        let built_from = project.build.iter().flat_map(|build| &build.watch_dirs);
        inputs.extend(built_from.flat_map(|dir| sources_below(dir)));
        let prepared = self.source.prepare(self.session).await;
        let mut prepared =
            prepared.inspect_err(|_| inputs.extend(sources_below(&self.project_dir)))?;
        inputs.extend(prepared.bundle.inputs.iter().cloned());
        let environment = self.source.project.env.as_deref();
        prepared.set_vars(local_variables(&self.project_dir, environment));
        prepared.set_vars(self.vars.iter().cloned());
        if self.inspected {
            prepared.bundle.inline_source_maps();
        }
        let (read_at, terminal) = (prepared.read_at, self.session.terminal);
        let published = publish::publish(&self.api, prepared, Options::default(), terminal).await?;
        Ok((published, read_at))
    }

    fn settings_files(&self) -> Vec<PathBuf> {
        let names = [
            "wrangler.toml",
            "wrangler.json",
            "wrangler.jsonc",
            ".dev.vars",
            ".env",
            ".env.local",
            "package.json",
            "tsconfig.json",
        ];
        names.iter().map(|name| self.project_dir.join(name)).collect()
    }
}

/// Where debuggers may attach, whenever that changes.
async fn newest(debugger: &mut Option<watch::Receiver<Option<String>>>) -> String {
    loop {
        let Some(urls) = debugger else { return std::future::pending().await };
        if urls.changed().await.is_err() {
            *debugger = None;
        } else if let Some(url) = urls.borrow_and_update().clone() {
            return url;
        }
    }
}

/// The folders of a project and their files, when it is not known which of them matter.
fn sources_below(dir: &Path) -> Vec<PathBuf> {
    const FILES_MAX: usize = 2_000;
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        files.push(folder.clone());
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(|e| e.ok()) {
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.') || name == "node_modules";
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !hidden => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && files.len() < FILES_MAX => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}
