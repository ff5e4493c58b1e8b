//! From a configuration file to a project: environments resolved, keys checked and typed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atoll_router::origins::OriginPool;
use atoll_router::regions::RegionRules;

use super::bindings::{self, ProjectBinding};
use super::document::{Document, Entry, Node, Value};
use super::fields::Fields;
use super::keys::{Scope, Support, key};
use super::pools;
use super::regions;
use super::rules::{self, ProjectRules};
use super::{Diagnostic, ProjectError};

/// The newest date that says nothing new to a worker: what a project without one is shown.
pub const LATEST_COMPATIBILITY_DATE: &str = "2026-11-01";

/// A project, as its configuration file describes it for one environment.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder of the configuration file: paths in it are relative to this.
    pub dir: PathBuf,
    /// The configuration file.
    pub config_path: PathBuf,
    /// The worker's name, with `-<environment>` where that is the rule.
    pub name: Option<String>,
    /// The entry script, absolute.
    pub main: Option<PathBuf>,
    /// The account to deploy to.
    pub account_id: Option<String>,
    /// `YYYY-MM-DD`.
    pub compatibility_date: Option<String>,
    /// As written.
    pub compatibility_flags: Vec<String>,
    /// Whether the worker answers below the account's subdomain; by default, when it has no routes.
    pub workers_dev: bool,
    /// Route patterns.
    pub routes: Vec<RouteEntry>,
    /// Cron lines; none leaves the deployed ones as they are.
    pub crons: Option<Vec<String>>,
    /// What `env` holds.
    pub bindings: Vec<ProjectBinding>,
    /// `limits.cpu_ms`.
    pub cpu_ms: Option<u64>,
    /// `limits.subrequests`.
    pub subrequests: Option<u64>,
    /// Where the worker may run; none leaves what is set as it is.
    pub regions: Option<RegionRules>,
    /// Where requests to some hosts go; none leaves what is set as it is.
    pub pools: Option<Vec<OriginPool>>,
    /// What decides before the worker is called; none leaves the deployed rules as they are.
    pub rules: Option<ProjectRules>,
    /// Whether variables that only the node knows survive a deploy.
    pub keep_vars: bool,
    /// A command to run before bundling.
    pub build: Option<BuildCommand>,
    /// How the sources become modules.
    pub bundle: BundleSettings,
    /// What is odd but no error.
    pub warnings: Vec<Diagnostic>,
}

/// One route of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteEntry {
    /// The pattern; for a custom domain, its host with `/*`.
    pub pattern: String,
    /// The zone's name, where given.
    pub zone_name: Option<String>,
    /// The zone's id, where given.
    pub zone_id: Option<String>,
}

/// A command of the project's own that makes the entry script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildCommand {
    /// Run by the shell.
    pub command: String,
    /// Where, absolute.
    pub cwd: PathBuf,
    /// The folders of its sources, absolute.
    pub watch_dirs: Vec<PathBuf>,
}

/// How the sources become modules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BundleSettings {
    /// Upload files as they are.
    pub no_bundle: bool,
    /// Upload further files that the rules match.
    pub find_additional_modules: Option<bool>,
    /// Where additional modules are looked for, absolute; by default, the entry's folder.
    pub base_dir: Option<PathBuf>,
    /// Module rules, before the defaults.
    pub rules: Vec<ModuleRule>,
    /// Expressions that replace names.
    pub define: BTreeMap<String, String>,
    /// Modules that replace modules.
    pub alias: BTreeMap<String, String>,
    /// Whether to minify.
    pub minify: bool,
    /// Whether functions keep their names in a minified bundle.
    pub keep_names: Option<bool>,
    /// A `tsconfig.json`, absolute.
    pub tsconfig: Option<PathBuf>,
    /// The function that JSX calls.
    pub jsx_factory: Option<String>,
    /// What a JSX fragment is.
    pub jsx_fragment: Option<String>,
}

/// How files that match a glob are uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleRule {
    /// As what.
    pub kind: RuleKind,
    /// Which files.
    pub globs: Vec<String>,
    /// Whether the default rule of the same kind still holds.
    pub fallthrough: bool,
}

/// The module kinds that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// An ECMAScript module.
    EsModule,
    /// A CommonJS module.
    CommonJs,
    /// A WebAssembly module.
    CompiledWasm,
    /// A string.
    Text,
    /// An `ArrayBuffer`.
    Data,
}

/// Where keys are looked up for the chosen environment.
pub(super) struct Scopes<'a> {
    /// The top level.
    pub(super) top: &'a [Entry],
    /// Where keys stand that are not inherited: the environment, or else the top level.
    pub(super) own: &'a [Entry],
    environment: Option<&'a str>,
}

impl Scopes<'_> {
    /// The members that hold an inherited key.
    pub(super) fn inherited(&self, name: &str) -> &[Entry] {
        let set = self.own.iter().any(|e| e.key == name && !matches!(e.node.value, Value::Null));
        if set { self.own } else { self.top }
    }
}

/// Reads inherited keys, each from the level that sets it.
struct InheritedReader<'a> {
    document: &'a Document,
    scopes: &'a Scopes<'a>,
    problems: &'a mut Vec<Diagnostic>,
}

impl InheritedReader<'_> {
    fn at(&mut self, name: &str) -> Fields<'_> {
        Fields::new(self.document, self.scopes.inherited(name), self.problems)
    }
}

impl Project {
    /// Reads a configuration file for an environment.
    pub fn read(path: &Path, environment: Option<&str>) -> Result<Self, ProjectError> {
        let path = std::path::absolute(path)
            .map_err(|source| ProjectError::Read { path: path.to_owned(), source })?;
        Self::from_document(&Document::read(&path)?, environment)
    }

    pub(super) fn from_document(
        document: &Document,
        environment: Option<&str>,
    ) -> Result<Self, ProjectError> {
        let own = match environment {
            Some(name) => environment_entries(document, name)?,
            None => &document.root,
        };
        let scopes = Scopes { top: &document.root, own, environment };
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        check_keys(document, &scopes, &mut problems, &mut warnings);
        let project = read(document, &scopes, &mut problems, warnings);
        if problems.is_empty() { Ok(project) } else { Err(ProjectError::Invalid(problems)) }
    }

    /// A project that is nothing but a script in a folder.
    pub fn bare(dir: &Path) -> Self {
        let document =
            Document { path: dir.join("wrangler.toml"), text: String::new(), root: Vec::new() };
        Self::from_document(&document, None).expect("an empty configuration has no problems")
    }

    /// Whether the modules of Node are promised to be there.
    pub fn node_compatible(&self) -> bool {
        let flag = |name: &str| self.compatibility_flags.iter().any(|f| f == name);
        // From this date on the flag is the default.
        let by_date = self.compatibility_date.as_deref().is_some_and(|date| date >= "2026-08-04");
        flag("nodejs_compat") || (by_date && !flag("no_nodejs_compat"))
    }
}

fn environment_entries<'a>(
    document: &'a Document,
    name: &str,
) -> Result<&'a [Entry], ProjectError> {
    let invalid =
        |span, message: String| ProjectError::Invalid(vec![document.diagnostic(span, message)]);
    let Some(env) = document.root.iter().find(|e| e.key == "env") else {
        return Err(invalid(0..1, format!("there is no environment \"{name}\": add env.{name}")));
    };
    let Value::Object(environments) = &env.node.value else {
        return Err(invalid(env.node.span.clone(), "\"env\" must be an object".into()));
    };
    match environments.iter().find(|e| e.key == name) {
        Some(Entry { node: Node { value: Value::Object(entries), .. }, .. }) => Ok(entries),
        Some(entry) => {
            Err(invalid(entry.node.span.clone(), format!("env.{name} must be an object")))
        }
        None => {
            let known: Vec<_> = environments.iter().map(|e| e.key.as_str()).collect();
            let message =
                format!("there is no environment \"{name}\": there is {}", known.join(", "));
            Err(invalid(env.key_span.clone(), message))
        }
    }
}

/// Which part of the file an object is, when its keys are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The top level, when it alone describes the project.
    Whole,
    /// The top level below a chosen environment.
    Base,
    /// The chosen environment.
    Environment,
}

/// Refuses what the node cannot honour and warns of keys that nobody knows.
fn check_keys(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Diagnostic>,
) {
    let levels = match scopes.environment {
        None => vec![(scopes.top, Level::Whole)],
        Some(_) => vec![(scopes.top, Level::Base), (scopes.own, Level::Environment)],
    };
    for (entry, level) in
        levels.iter().flat_map(|(entries, l)| entries.iter().map(move |e| (e, *l)))
    {
        let at = |message: String| document.diagnostic(entry.key_span.clone(), message);
        let name = &entry.key;
        let Some(key) = key(name) else {
            warnings.push(at(format!("unknown key \"{name}\" is ignored")));
            continue;
        };
        if level == Level::Environment && key.scope == Scope::TopLevel {
            warnings.push(at(format!("\"{name}\" belongs at the top level; it is ignored")));
        }
        let unused = level == Level::Base && key.scope == Scope::Own;
        if key.support == Support::Refused && !unused && !is_empty(&entry.node.value) {
            problems.push(at(format!(
                "\"{name}\" is not supported by this node: remove it and what uses it"
            )));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.iter().all(|e| is_empty(&e.node.value)),
        _ => false,
    }
}

fn read(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
    mut warnings: Vec<Diagnostic>,
) -> Project {
    let dir = document.path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut reader = InheritedReader { document, scopes, problems };
    let main = reader.at("main").string("main").map(|main| dir.join(main));
    let account_id = reader.at("account_id").string("account_id");
    let compatibility_date = reader.at("compatibility_date").string("compatibility_date");
    let compatibility_flags =
        reader.at("compatibility_flags").strings("compatibility_flags").unwrap_or_default();
    let workers_dev = reader.at("workers_dev").boolean("workers_dev");
    let crons = {
        let mut fields = reader.at("triggers");
        fields.object("triggers").and_then(|entries| fields.below(entries).strings("crons"))
    };
    let (cpu_ms, subrequests) = {
        let mut fields = reader.at("limits");
        let limits = fields.object("limits").unwrap_or_default();
        let mut limits = fields.below(limits);
        (limits.integer("cpu_ms"), limits.integer("subrequests"))
    };
    let build = {
        let mut fields = reader.at("build");
        let entries = fields.object("build").unwrap_or_default();
        let mut build = fields.below(entries);
        let cwd = build.string("cwd").map_or_else(|| dir.clone(), |cwd| dir.join(cwd));
        let watched = match build.entry("watch_dir").map(|entry| &entry.node.value) {
            Some(Value::Array(_)) => build.strings("watch_dir"),
            _ => build.string("watch_dir").map(|dir| vec![dir]),
        };
        let watched = watched.unwrap_or_else(|| vec!["src".to_owned()]);
        let watch_dirs = watched.iter().map(|watched| dir.join(watched)).collect();
        build.string("command").map(|command| BuildCommand { command, cwd, watch_dirs })
    };
    let keep_vars = Fields::new(document, scopes.top, problems).boolean("keep_vars");
    let name = read_name(document, scopes, problems);
    let routes = read_routes(document, scopes, problems);
    Project {
        name,
        main,
        account_id,
        compatibility_date,
        compatibility_flags,
        workers_dev: workers_dev.unwrap_or(routes.is_empty()),
        crons,
        bindings: bindings::read(document, scopes, problems),
        cpu_ms,
        subrequests,
        regions: regions::read(document, scopes, &routes, problems),
        pools: pools::read(document, scopes, problems),
        rules: rules::read(document, scopes, &dir, problems, &mut warnings),
        routes,
        keep_vars: keep_vars.unwrap_or(false),
        build,
        bundle: read_bundle(document, scopes, &dir, problems),
        warnings,
        config_path: document.path.clone(),
        dir,
    }
}

/// An environment's worker is `<name>-<environment>` unless the environment names it itself.
fn read_name(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Option<String> {
    let name = match scopes.environment {
        Some(environment) => {
            Fields::new(document, scopes.own, problems).string("name").or_else(|| {
                let top = Fields::new(document, scopes.top, problems).string("name");
                top.map(|name| format!("{name}-{environment}"))
            })
        }
        None => Fields::new(document, scopes.top, problems).string("name"),
    }?;
    if !is_worker_name(&name) {
        let entry = scopes.own.iter().chain(scopes.top).find(|e| e.key == "name");
        let span = entry.map_or(0..0, |e| e.node.span.clone());
        problems.push(document.diagnostic(
            span,
            format!("\"{name}\" is no worker name: use lower-case letters, digits, - and _"),
        ));
    }
    Some(name)
}

/// Whether a text can name a worker.
fn is_worker_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    (1..=63).contains(&name.len()) && name.chars().all(allowed)
}

fn read_routes(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<RouteEntry> {
    // `route` and `routes` override one another across levels, so the level that has either wins.
    let has_own = scopes.own.iter().any(|e| e.key == "route" || e.key == "routes");
    let entries = if has_own { scopes.own } else { scopes.top };
    let mut fields = Fields::new(document, entries, problems);
    let single = fields.entry("route").map(|entry| &entry.node);
    let many = fields.array("routes");
    single.into_iter().chain(many).filter_map(|node| read_route(&mut fields, node)).collect()
}

fn read_route<'a>(fields: &mut Fields<'a>, node: &'a Node) -> Option<RouteEntry> {
    match &node.value {
        Value::String(pattern) => {
            Some(RouteEntry { pattern: pattern.clone(), ..RouteEntry::default() })
        }
        Value::Object(entries) => {
            let mut route = fields.below(entries);
            if route.boolean("enabled") == Some(false) {
                return None;
            }
            let mut pattern = route.required("pattern", node)?;
            if route.boolean("custom_domain") == Some(true) {
                if pattern.contains(['/', '*']) {
                    route.report(node, "a custom domain is a host name without paths or wildcards");
                }
                pattern.push_str("/*");
            }
            let (zone_name, zone_id) = (route.string("zone_name"), route.string("zone_id"));
            Some(RouteEntry { pattern, zone_name, zone_id })
        }
        other => {
            fields.report(node, format!("a route is a string or an object, not {}", other.noun()));
            None
        }
    }
}

fn read_bundle(
    document: &Document,
    scopes: &Scopes<'_>,
    dir: &Path,
    problems: &mut Vec<Diagnostic>,
) -> BundleSettings {
    let rules = read_rules(&mut Fields::new(document, scopes.inherited("rules"), problems));
    let define = string_map(&mut Fields::new(document, scopes.own, problems), "define");
    let alias = string_map(&mut Fields::new(document, scopes.top, problems), "alias");
    let mut reader = InheritedReader { document, scopes, problems };
    BundleSettings {
        no_bundle: reader.at("no_bundle").boolean("no_bundle").unwrap_or(false),
        find_additional_modules: reader
            .at("find_additional_modules")
            .boolean("find_additional_modules"),
        base_dir: reader.at("base_dir").string("base_dir").map(|base| dir.join(base)),
        rules,
        define,
        alias,
        minify: reader.at("minify").boolean("minify").unwrap_or(false),
        keep_names: reader.at("keep_names").boolean("keep_names"),
        tsconfig: reader.at("tsconfig").string("tsconfig").map(|path| dir.join(path)),
        jsx_factory: reader.at("jsx_factory").string("jsx_factory"),
        jsx_fragment: reader.at("jsx_fragment").string("jsx_fragment"),
    }
}

fn string_map(fields: &mut Fields<'_>, key: &str) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for entry in fields.object(key).unwrap_or_default() {
        match &entry.node.value {
            Value::String(value) => {
                map.insert(entry.key.clone(), value.clone());
            }
            other => {
                fields.report(
                    &entry.node,
                    format!("\"{key}\" maps names to strings, not to {}", other.noun()),
                );
            }
        }
    }
    map
}

fn read_rules(fields: &mut Fields<'_>) -> Vec<ModuleRule> {
    let mut rules = Vec::new();
    for (node, entries) in fields.objects("rules") {
        let mut rule = fields.below(entries);
        let globs = rule.strings("globs").unwrap_or_default();
        let fallthrough = rule.boolean("fallthrough").unwrap_or(false);
        let kind = match rule.required("type", node).as_deref() {
            Some("ESModule") => RuleKind::EsModule,
            Some("CommonJS") => RuleKind::CommonJs,
            Some("CompiledWasm") => RuleKind::CompiledWasm,
            Some("Text") => RuleKind::Text,
            Some("Data") => RuleKind::Data,
            Some(other) => {
                rule.report(
                    node,
                    format!(
                        "rule type \"{other}\" is not supported: \
                         use ESModule, CommonJS, CompiledWasm, Text or Data"
                    ),
                );
                continue;
            }
            None => continue,
        };
        rules.push(ModuleRule { kind, globs, fallthrough });
    }
    rules
}
