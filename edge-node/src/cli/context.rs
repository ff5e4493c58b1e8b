//! Finds the node to talk to: named by the environment, saved as a context, or on this machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::Api;
use super::args::ContextCommand;
use super::client::{ApiError, Client};
use super::cluster;
use super::environment::{ApiVariables, Environment};
use super::error::CliError;
use super::session::Session;
use crate::node_file::NodeFile;
use crate::registry::ROOT_TOKEN_FILE;

/// The data directories of nodes on this machine, looked at in this order.
const LOCAL_DATA: [&str; 2] = ["atoll-data", "atoll-demo"];
/// How long commands wait to learn whether a node on this machine lives.
const LOCAL_WAIT_MAX: Duration = Duration::from_secs(1);

/// How to reach a node and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) account: Option<String>,
    /// What led here, in words.
    pub(crate) source: String,
}

impl Target {
    /// The API of the node, for the account that the way there names, or else for this one.
    pub(crate) async fn connect(&self, account: Option<String>) -> Result<Api, CliError> {
        let account = self.account.clone().or(account);
        Api::connect(Client::new(&self.url, &self.token), account).await
    }
}

/// A node that the user saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedNode {
    url: String,
    token: String,
    account: Option<String>,
}

/// The file of saved nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Contexts {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, SavedNode>,
}

/// The node that everything leads to. Fails with what to set when nothing does.
pub(crate) async fn target(environment: &Environment) -> Result<Target, CliError> {
    let variables = [
        (&environment.atoll, "ATOLL_API_URL", "ATOLL_API_TOKEN"),
        (&environment.cloudflare, "CLOUDFLARE_API_BASE_URL", "CLOUDFLARE_API_TOKEN"),
    ];
    for (given, url, token) in variables {
        if let Some(target) = from_variables(given, url, token)? {
            return Ok(target);
        }
    }
    if let Some((name, saved)) = saved(environment)? {
        let source = format!("context \"{name}\"");
        return Ok(Target { url: saved.url, token: saved.token, account: saved.account, source });
    }
    let single = LOCAL_DATA.iter().map(PathBuf::from);
    for data_dir in single.chain(cluster::node_dirs(Path::new(cluster::DATA_DIR))) {
        if let Some(target) = local(&data_dir).await? {
            return Ok(target);
        }
    }
    Err(CliError::Failed(format!(
        "no node is known, and none runs here on {} or ./{}: set ATOLL_API_URL and ATOLL_API_TOKEN, save \
         one with `atoll context add NAME --url URL`, or start one here with `atoll serve`",
        LOCAL_DATA.map(|dir| format!("./{dir}")).join(", "),
        cluster::DATA_DIR,
    )))
}

/// The node that runs on a data directory of this machine, if one does.
async fn local(data_dir: &Path) -> Result<Option<Target>, CliError> {
    let Some(node) = NodeFile::read(data_dir).map_err(CliError::at(data_dir))? else {
        return Ok(None);
    };
    let mut admin = node.admin;
    if admin.ip().is_unspecified() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let url = format!("http://{admin}");
    let token_path = data_dir.join(ROOT_TOKEN_FILE);
    let token = std::fs::read_to_string(&token_path).map_err(CliError::at(&token_path))?;
    let token = token.trim().to_owned();
    // A node that was killed has left its file behind, and one that is being killed still accepts connections:
    // only an answer tells that it lives. One that takes its time may be busy.
    let client = Client::new(&url, &token);
    let answer = timeout(LOCAL_WAIT_MAX, client.get::<Value>("/memberships?page=1")).await;
    if let Ok(Err(ApiError::Unreachable { .. })) = answer {
        return Ok(None);
    }
    Ok(Some(Target {
        url,
        token,
        account: None,
        source: format!("the node that runs on {}", data_dir.display()),
    }))
}

fn from_variables(
    given: &ApiVariables,
    url_name: &str,
    token_name: &str,
) -> Result<Option<Target>, CliError> {
    let missing = |set: &str, unset: &str| {
        Err(CliError::Failed(format!("{set} is set but {unset} is not: set both")))
    };
    match (&given.url, &given.token) {
        (Some(url), Some(token)) => Ok(Some(Target {
            url: url.clone(),
            token: token.clone(),
            account: given.account.clone(),
            source: format!("{url_name} and {token_name}"),
        })),
        (Some(_), None) => missing(url_name, token_name),
        // A token alone may be meant for Cloudflare itself, which nothing here talks to.
        (None, Some(_)) if url_name.starts_with("ATOLL") => missing(token_name, url_name),
        _ => Ok(None),
    }
}

fn saved(environment: &Environment) -> Result<Option<(String, SavedNode)>, CliError> {
    let Ok(path) = file(environment) else { return Ok(None) };
    let contexts = read(&path)?;
    let Some(name) = contexts.current else { return Ok(None) };
    let node = contexts.contexts.get(&name).cloned();
    Ok(node.map(|node| (name, node)))
}

fn file(environment: &Environment) -> Result<PathBuf, CliError> {
    let dir = environment.config_dir.as_ref().ok_or_else(|| {
        CliError::Failed("no folder for settings is known: set XDG_CONFIG_HOME or HOME".into())
    })?;
    Ok(dir.join("atoll/contexts.toml"))
}

fn read(path: &Path) -> Result<Contexts, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(e) => return Err(CliError::at(path)(e)),
    };
    toml::from_str(&text).map_err(|e| {
        CliError::Failed(format!("{} is damaged; correct or remove it: {e}", path.display()))
    })
}

/// Replaces the file whole; it holds tokens, so only its owner may read it.
fn write(path: &Path, contexts: &Contexts) -> Result<(), CliError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(CliError::at(dir))?;
    let text = toml::to_string(contexts).expect("strings and tables can be written as TOML");
    let passing = path.with_extension("toml.new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut new = options.open(&passing).map_err(CliError::at(&passing))?;
    new.write_all(text.as_bytes()).map_err(CliError::at(&passing))?;
    std::fs::rename(&passing, path).map_err(CliError::at(path))
}

/// `atoll context …`
pub(crate) async fn run(session: &Session, command: ContextCommand) -> Result<(), CliError> {
    let path = file(&session.environment)?;
    let mut contexts = read(&path)?;
    let unknown = |name: &str| {
        CliError::Failed(format!("no context is named \"{name}\": see `atoll context list`"))
    };
    match command {
        ContextCommand::Add { name, url, token, account } => {
            let token = match token {
                Some(token) => token,
                None => super::secret::read_stdin(session, "API token: ")?,
            };
            let api = Api::connect(Client::new(&url, &token), account).await?;
            let account = Some(api.account);
            contexts.contexts.insert(name.clone(), SavedNode { url, token, account });
            contexts.current = Some(name.clone());
            write(&path, &contexts)?;
            session.terminal.note(format!("saved; \"{name}\" is now in use"));
        }
        ContextCommand::List => list(session, &contexts),
        ContextCommand::Use { name } => {
            if !contexts.contexts.contains_key(&name) {
                return Err(unknown(&name));
            }
            contexts.current = Some(name.clone());
            write(&path, &contexts)?;
            session.terminal.note(format!("\"{name}\" is now in use"));
        }
        ContextCommand::Remove { name } => {
            contexts.contexts.remove(&name).ok_or_else(|| unknown(&name))?;
            contexts.current = contexts.current.filter(|current| *current != name);
            write(&path, &contexts)?;
            session.terminal.note(format!("\"{name}\" is forgotten"));
        }
    }
    Ok(())
}

fn list(session: &Session, contexts: &Contexts) {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    if session.terminal.json {
        let all = contexts.contexts.iter().map(|(name, node)| {
            json!({ "name": name, "url": node.url, "account": node.account,
                "current": is_current(name) })
        });
        session.terminal.json(&all.collect());
        return;
    }
    let row = |(name, node): (&String, &SavedNode)| {
        let mark = if is_current(name) { "*" } else { "" };
        let account = node.account.clone().unwrap_or_default();
        vec![mark.to_owned(), name.clone(), node.url.clone(), account]
    };
    let rows = contexts.contexts.iter().map(row).collect();
    session.terminal.table(&["", "name", "url", "account"], rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(url: Option<&str>, token: Option<&str>) -> ApiVariables {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ApiVariables { url: owned(url), token: owned(token), account: None }
    }

    #[tokio::test]
    async fn the_environment_comes_before_saved_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let mut environment =
            Environment { config_dir: Some(dir.path().to_owned()), ..Environment::default() };
        let node = SavedNode { url: "http://saved".into(), token: "s".into(), account: None };
        let contexts =
            Contexts { current: Some("home".into()), contexts: [("home".into(), node)].into() };
        let path = file(&environment).unwrap();
        write(&path, &contexts).unwrap();
        assert_eq!(target(&environment).await.unwrap().url, "http://saved");

        environment.cloudflare = variables(Some("http://cf"), Some("c"));
        assert_eq!(target(&environment).await.unwrap().url, "http://cf");
        environment.atoll = variables(Some("http://atoll"), Some("a"));
        assert_eq!(target(&environment).await.unwrap().url, "http://atoll");
    }

    #[tokio::test]
    async fn half_a_setting_is_an_error_that_names_the_other_half() {
        let atoll = variables(Some("http://atoll"), None);
        let environment = Environment { atoll, ..Environment::default() };
        let error = target(&environment).await.unwrap_err().to_string();
        assert!(error.contains("ATOLL_API_TOKEN is not"), "{error}");
    }

    #[tokio::test]
    async fn a_data_directory_leads_to_its_own_node() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(local(dir.path()).await.unwrap(), None);
        std::fs::write(dir.path().join(ROOT_TOKEN_FILE), "secret\n").unwrap();
        assert_eq!(local(dir.path()).await.unwrap(), None, "a token alone is no running node");
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let admin = std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        NodeFile { admin, http: address, https: address, pid: 1 }.write(dir.path()).unwrap();
        let target = local(dir.path()).await.unwrap().expect("a busy node is one too");
        assert_eq!((target.url, target.token), (format!("http://{address}"), "secret".to_owned()));

        let dying = tokio::spawn(async move {
            // The connection from before, then the one that is asked for now.
            for _ in 0..2 {
                drop(listener.accept().await.unwrap());
            }
        });
        assert_eq!(local(dir.path()).await.unwrap(), None, "the node accepts and dies");
        dying.await.unwrap();
        assert_eq!(local(dir.path()).await.unwrap(), None, "the node was killed");
    }

    #[test]
    fn saved_tokens_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("atoll/contexts.toml");
        write(&path, &Contexts::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
