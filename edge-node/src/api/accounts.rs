//! Who the caller is: user, memberships, accounts and their tokens.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{delete, get};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::{Caller, forbidden};
use super::body::JsonBody;
use super::envelope::{Answer, Envelope};
use super::time::iso8601;
use crate::registry::{Account, Scope, Token};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/user", get(user))
        .route("/user/tokens/verify", get(verify))
        .route("/memberships", get(memberships))
        .route("/accounts", get(accounts).post(create_account))
        .route("/accounts/{account}", get(account))
        .route("/accounts/{account}/tokens", get(tokens).post(create_token))
        .route("/accounts/{account}/tokens/{id}", delete(revoke_token))
}

async fn user(caller: Caller) -> Answer {
    let id = &caller.token().id;
    Envelope::new(json!({ "id": id, "email": format!("{}@atoll", caller.token().name) }))
}

async fn verify(caller: Caller) -> Answer {
    Envelope::new(json!({ "id": caller.token().id, "status": "active" }))
}

async fn own_account(state: &ApiState, caller: &Caller) -> Result<Account, super::ApiError> {
    let id = caller.account().clone();
    state.registry(move |registry| registry.account(&id)).await
}

async fn memberships(State(state): State<ApiState>, caller: Caller) -> Answer {
    let account = own_account(&state, &caller).await?;
    let membership = json!({
        "id": account.id,
        "status": "accepted",
        "roles": ["Administrator"],
        "account": account_json(&account),
    });
    Envelope::list(vec![membership])
}

async fn accounts(State(state): State<ApiState>, caller: Caller) -> Answer {
    Envelope::list(vec![account_json(&own_account(&state, &caller).await?)])
}

async fn account(State(state): State<ApiState>, caller: Caller) -> Answer {
    Envelope::new(account_json(&own_account(&state, &caller).await?))
}

#[derive(Deserialize)]
struct NewAccount {
    name: String,
    subdomain: Option<String>,
}

/// Makes an account with a token that may do anything in it, but make no further accounts.
async fn create_account(
    State(state): State<ApiState>,
    JsonBody(new): JsonBody<NewAccount>,
) -> Answer {
    let (account, token) = state
        .registry(move |registry| {
            let account = registry.create_account(&new.name, new.subdomain.as_deref())?;
            let scopes: Vec<Scope> =
                Scope::ALL.into_iter().filter(|scope| *scope != Scope::AccountsWrite).collect();
            let token = registry.create_token(&account.id, "root", &scopes)?;
            Ok((account, token))
        })
        .await?;
    let mut result = account_json(&account);
    result["token"] = json!(token.text);
    Envelope::new(result)
}

async fn tokens(State(state): State<ApiState>, caller: Caller) -> Answer {
    let account = caller.account().clone();
    let tokens = state.registry(move |registry| registry.tokens(&account)).await?;
    Envelope::list(tokens.iter().map(token_json).collect())
}

#[derive(Deserialize)]
struct NewTokenBody {
    name: String,
    /// Every scope of the caller's own token when absent.
    scopes: Option<Vec<Scope>>,
}

async fn create_token(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(new): JsonBody<NewTokenBody>,
) -> Answer {
    let scopes = new.scopes.unwrap_or_else(|| caller.token().scopes.clone());
    if scopes.iter().any(|scope| !caller.token().scopes.contains(scope)) {
        return Err(forbidden());
    }
    let account = caller.account().clone();
    let (name, wanted) = (new.name.clone(), scopes.clone());
    let token =
        state.registry(move |registry| registry.create_token(&account, &name, &wanted)).await?;
    Envelope::new(json!({
        "id": token.id,
        "name": new.name,
        "scopes": scopes,
        "status": "active",
        "value": token.text,
    }))
}

#[derive(Deserialize)]
struct TokenPath {
    id: String,
}

async fn revoke_token(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<TokenPath>,
) -> Answer {
    let account = caller.account().clone();
    let id = path.id.clone();
    state.registry(move |registry| registry.revoke_token(&account, &id)).await?;
    Envelope::new(json!({ "id": path.id }))
}

fn account_json(account: &Account) -> Value {
    json!({
        "id": account.id,
        "name": account.name,
        "type": "standard",
        "created_on": iso8601(account.created_ms),
    })
}

fn token_json(token: &Token) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "status": "active",
        "issued_on": iso8601(token.created_ms),
    })
}
