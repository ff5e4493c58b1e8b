//! The calls of the v4 API that the commands make, for one account.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Body, Client, segment};
use super::error::CliError;

/// Namespaces asked for at a time.
const NAMESPACE_PAGE: usize = 100;
/// Pages of a list before it is given up as endless.
const PAGES_MAX: usize = 10_000;

/// One account on one node.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) account: String,
}

/// What a node says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeInfo {
    pub(crate) version: String,
    pub(crate) domain: String,
    pub(crate) http: Option<String>,
    pub(crate) https: Option<String>,
}

/// A KV namespace.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub(crate) struct Namespace {
    pub(crate) id: String,
    pub(crate) title: String,
}

/// What an upload made.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Uploaded {
    #[serde(default)]
    pub(crate) deployment_id: Option<String>,
    #[serde(default)]
    pub(crate) startup_time_ms: Option<u64>,
}

impl NodeInfo {
    /// The URLs of a host that this node serves, the plain one first.
    pub(crate) fn urls(&self, host: &str) -> Vec<String> {
        let listeners = [("http", &self.http, "80"), ("https", &self.https, "443")];
        let url = |(scheme, address, usual): (&str, &Option<String>, &str)| {
            let port = address.as_deref()?.rsplit(':').next()?;
            Some(match port == usual {
                true => format!("{scheme}://{host}"),
                false => format!("{scheme}://{host}:{port}"),
            })
        };
        listeners.into_iter().filter_map(url).collect()
    }
}

#[derive(Deserialize)]
struct Membership {
    account: Account,
}

#[derive(Deserialize)]
struct Account {
    id: String,
    name: String,
}

impl Api {
    /// Fixes the account: the one given, or else the only one that the token belongs to.
    pub(crate) async fn connect(client: Client, account: Option<String>) -> Result<Self, CliError> {
        if let Some(account) = account {
            return Ok(Self { client, account });
        }
        let memberships: Vec<Membership> = client.get("/memberships?page=1").await?;
        match memberships.as_slice() {
            [only] => Ok(Self { account: only.account.id.clone(), client }),
            [] => Err(CliError::Failed(
                "the token belongs to no account: set ATOLL_ACCOUNT_ID".to_owned(),
            )),
            many => {
                let line = |m: &Membership| format!("  {} {}", m.account.id, m.account.name);
                let lines: Vec<_> = many.iter().map(line).collect();
                let lines = lines.join("\n");
                Err(CliError::Failed(format!(
                    "the token belongs to several accounts: set ATOLL_ACCOUNT_ID to one of\n{lines}"
                )))
            }
        }
    }

    /// A path below the account.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/accounts/{}{rest}", segment(&self.account))
    }

    /// A path below a worker's script.
    pub(crate) fn script(&self, worker: &str, rest: &str) -> String {
        self.path(&format!("/workers/scripts/{}{rest}", segment(worker)))
    }

    pub(crate) async fn node(&self) -> Result<NodeInfo, ApiError> {
        self.client.get(&self.path("/atoll/node")).await
    }

    /// The nodes of the cluster, as they tell of themselves.
    pub(crate) async fn nodes(&self) -> Result<Value, ApiError> {
        self.client.get("/nodes").await
    }

    /// The account's subdomain: `<worker>.<subdomain>.<domain>`.
    pub(crate) async fn subdomain(&self) -> Result<String, ApiError> {
        let result: Value = self.client.get(&self.path("/workers/subdomain")).await?;
        Ok(result["subdomain"].as_str().unwrap_or_default().to_owned())
    }

    /// The bindings of a worker's newest version; none when there is no such worker.
    pub(crate) async fn bindings(&self, worker: &str) -> Result<Vec<Value>, ApiError> {
        match self.client.get::<Value>(&self.script(worker, "/settings")).await {
            Ok(mut settings) => match settings["bindings"].take() {
                Value::Array(bindings) => Ok(bindings),
                _ => Ok(Vec::new()),
            },
            Err(error) if matches!(error.code(), Some(10007 | 10090)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Uploads a script: a new version that serves at once.
    pub(crate) async fn upload(&self, worker: &str, form: Body) -> Result<Uploaded, ApiError> {
        let path = self.script(worker, "?excludeScript=true&bindings_inherit=strict");
        self.client.call(Method::PUT, &path, form).await
    }

    pub(crate) async fn set_workers_dev(
        &self,
        worker: &str,
        enabled: bool,
    ) -> Result<(), ApiError> {
        let path = self.script(worker, "/subdomain");
        let body = Body::Json(json!({ "enabled": enabled }));
        self.client.call::<Value>(Method::POST, &path, body).await.map(drop)
    }

    pub(crate) async fn set(&self, path: &str, value: Value) -> Result<Value, ApiError> {
        self.client.call(Method::PUT, path, Body::Json(value)).await
    }

    /// Every namespace, by title.
    pub(crate) async fn namespaces(&self) -> Result<Vec<Namespace>, ApiError> {
        let mut namespaces = Vec::new();
        for page in 1..=PAGES_MAX {
            let query = format!("?per_page={NAMESPACE_PAGE}&order=title&direction=asc&page={page}");
            let path = self.path(&format!("/storage/kv/namespaces{query}"));
            let found: Vec<Namespace> = self.client.get(&path).await?;
            let last = found.len() < NAMESPACE_PAGE;
            namespaces.extend(found);
            if last {
                break;
            }
        }
        Ok(namespaces)
    }

    pub(crate) async fn create_namespace(&self, title: &str) -> Result<Namespace, ApiError> {
        let path = self.path("/storage/kv/namespaces");
        let body = Body::Json(json!({ "title": title }));
        let created: Value = self.client.call(Method::POST, &path, body).await?;
        let id = created["id"].as_str().unwrap_or_default().to_owned();
        Ok(Namespace { id, title: title.to_owned() })
    }

    /// A path below a namespace.
    pub(crate) fn namespace(&self, id: &str, rest: &str) -> String {
        self.path(&format!("/storage/kv/namespaces/{}{rest}", segment(id)))
    }

    /// Every item of a list that goes on by cursor; `path` has a query already.
    pub(crate) async fn cursor_list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let mut items = Vec::new();
        let mut cursor = None::<String>;
        for _ in 0..PAGES_MAX {
            let next = cursor.map(|c| format!("&cursor={}", segment(&c))).unwrap_or_default();
            let (found, info) = self.client.page::<Vec<Value>>(&format!("{path}{next}")).await?;
            items.extend(found);
            cursor = info.cursor.filter(|c| !c.is_empty());
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }
}
