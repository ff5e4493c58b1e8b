//! KV namespaces: which there are and what they are called.

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, RawPathParams, State};
use axum::http::request::Parts;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Caller;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use crate::registry::{Missing, Namespace, NamespaceId, NamespaceOrder, RegistryError};

const PER_PAGE_DEFAULT: usize = 20;
const PER_PAGE_MAX: usize = 1_000;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/accounts/{account}/storage/kv/namespaces", get(list).post(create)).route(
        "/accounts/{account}/storage/kv/namespaces/{namespace}",
        get(view).put(rename).delete(delete),
    )
}

/// The namespace that a path names, when the caller's account owns it.
pub(super) struct Owned(pub(super) NamespaceId);

impl FromRequestParts<ApiState> for Owned {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::malformed(e.to_string()))?;
        let text = params.iter().find(|(key, _)| *key == "namespace").map(|(_, id)| id);
        let id = parse_id(text.unwrap_or_default())?;
        let (account, wanted) = (caller.account().clone(), id.clone());
        state.registry(move |registry| registry.namespace(&account, &wanted)).await?;
        Ok(Self(id))
    }
}

fn parse_id(text: &str) -> Result<NamespaceId, ApiError> {
    let missing = |_| RegistryError::NotFound { what: Missing::Namespace(text.to_owned()) };
    Ok(NamespaceId::parse(text).map_err(missing)?)
}

#[derive(Deserialize)]
struct PageQuery {
    page: Option<usize>,
    per_page: Option<usize>,
    order: Option<String>,
    direction: Option<String>,
}

impl PageQuery {
    fn order(&self) -> NamespaceOrder {
        let descending = self.direction.as_deref() == Some("desc");
        match (self.order.as_deref(), descending) {
            (Some("id"), false) => NamespaceOrder::Id,
            (Some("id"), true) => NamespaceOrder::IdDescending,
            (_, false) => NamespaceOrder::Title,
            (_, true) => NamespaceOrder::TitleDescending,
        }
    }
}

async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Answer {
    let account = caller.account().clone();
    let page = query.page.unwrap_or(1).max(1);
    let per_page = query.per_page.unwrap_or(PER_PAGE_DEFAULT).clamp(1, PER_PAGE_MAX);
    let order = query.order();
    let found = state
        .registry(move |registry| registry.namespaces(&account, order, page - 1, per_page))
        .await?;
    let info = json!({
        "page": page,
        "per_page": per_page,
        "count": found.namespaces.len(),
        "total_count": found.total,
        "total_pages": found.total.div_ceil(per_page),
    });
    let namespaces: Vec<Value> = found.namespaces.iter().map(namespace_json).collect();
    Ok(Envelope::new(namespaces)?.with_info(info))
}

#[derive(Deserialize)]
struct Title {
    title: String,
}

async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(new): JsonBody<Title>,
) -> Answer {
    let account = caller.account().clone();
    let namespace =
        state.registry(move |registry| registry.create_namespace(&account, &new.title)).await?;
    Envelope::new(namespace_json(&namespace))
}

#[derive(Deserialize)]
struct NamespacePath {
    namespace: String,
}

async fn view(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<NamespacePath>,
) -> Answer {
    let account = caller.account().clone();
    let id = parse_id(&path.namespace)?;
    let namespace = state.registry(move |registry| registry.namespace(&account, &id)).await?;
    Envelope::new(namespace_json(&namespace))
}

async fn rename(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<NamespacePath>,
    JsonBody(new): JsonBody<Title>,
) -> Answer {
    let account = caller.account().clone();
    let id = parse_id(&path.namespace)?;
    let namespace = state
        .registry(move |registry| {
            registry.rename_namespace(&account, &id, &new.title)?;
            registry.namespace(&account, &id)
        })
        .await?;
    Envelope::new(namespace_json(&namespace))
}

/// The name goes first: a namespace that nobody can name any more is empty to everyone, whatever
/// becomes of its values.
async fn delete(State(state): State<ApiState>, caller: Caller, Owned(id): Owned) -> Answer {
    let account = caller.account().clone();
    let forgotten = id.clone();
    state.registry(move |registry| registry.delete_namespace(&account, &forgotten)).await?;
    state.config.kv.drop_namespace(&id).await?;
    Envelope::new(Value::Null)
}

fn namespace_json(namespace: &Namespace) -> Value {
    json!({ "id": namespace.id, "title": namespace.title, "supports_url_encoding": true })
}
