//! Who may do what. Every request carries a token; a token opens one account and has scopes.

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::envelope::{ApiError, code};
use crate::registry::{AccountId, Scope, Token, WorkerName, WorkerRef};

/// The token of the request under way.
#[derive(Clone, Debug)]
pub(super) struct Caller(Token);

impl Caller {
    pub(super) fn account(&self) -> &AccountId {
        &self.0.account
    }

    pub(super) fn token(&self) -> &Token {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(unauthenticated)
    }
}

/// The worker that a path names, of the caller's account.
pub(super) struct Target(pub(super) WorkerRef);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::malformed(e.to_string()))?;
        let name = params.iter().find(|(key, _)| *key == "worker").map(|(_, name)| name);
        let worker = WorkerName::new(name.unwrap_or_default());
        Ok(Self(WorkerRef { account: caller.account().clone(), worker }))
    }
}

/// Lets a request through only with a token of the account that it names and the right scope.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    match admit(&state, &head).await {
        Ok(caller) => {
            head.extensions.insert(caller);
            next.run(Request::from_parts(head, body)).await
        }
        Err(refused) => refused.into_response(),
    }
}

async fn admit(state: &ApiState, head: &Parts) -> Result<Caller, ApiError> {
    let text = bearer(&head.headers).ok_or_else(unauthenticated)?.to_owned();
    let token = state.registry(move |registry| registry.authenticate(&text)).await?;
    let token = token.ok_or_else(unauthenticated)?;
    let path = head.uri.path();
    let path = path.strip_prefix(super::PREFIX).unwrap_or(path);
    let foreign = account_of(path).is_some_and(|account| account != token.account.as_str());
    let scope = scope_of(&head.method, path);
    if foreign || scope.is_some_and(|scope| !token.scopes.contains(&scope)) {
        return Err(forbidden());
    }
    Ok(Caller(token))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn account_of(path: &str) -> Option<&str> {
    path.strip_prefix("/accounts/")?.split('/').next()
}

/// The scope that a request needs; none for what every token may see of its own account.
fn scope_of(method: &Method, path: &str) -> Option<Scope> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let rest = match path.strip_prefix("/accounts/") {
        Some(below) => below.split_once('/').map_or("", |(_, rest)| rest),
        None if path.starts_with("/zones") => "workers",
        None => return (path == "/accounts" && !reads).then_some(Scope::AccountsWrite),
    };
    let tail = |rest: &str| {
        rest.starts_with("workers/scripts/") && rest.split('/').nth(3) == Some("tails")
    };
    match rest {
        "" => None,
        rest if rest == "tokens" || rest.starts_with("tokens/") => Some(Scope::TokensWrite),
        // Reading many keys at once is a POST.
        rest if rest.starts_with("storage/kv/") && (reads || rest.ends_with("/bulk/get")) => {
            Some(Scope::KvRead)
        }
        rest if rest.starts_with("storage/kv/") => Some(Scope::KvWrite),
        rest if tail(rest) => Some(Scope::TailRead),
        _ if reads => Some(Scope::WorkersRead),
        _ => Some(Scope::WorkersWrite),
    }
}

fn unauthenticated() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code::AUTHENTICATION, "Authentication error")
}

pub(super) fn forbidden() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        code::FORBIDDEN,
        "Unauthorized to access requested resource",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_needs_its_scope() {
        for (method, path, scope) in [
            (Method::GET, "/user", None),
            (Method::GET, "/accounts", None),
            (Method::POST, "/accounts", Some(Scope::AccountsWrite)),
            (Method::GET, "/accounts/a", None),
            (Method::GET, "/accounts/a/tokens", Some(Scope::TokensWrite)),
            (Method::DELETE, "/accounts/a/tokens/t", Some(Scope::TokensWrite)),
            (Method::GET, "/accounts/a/workers/scripts", Some(Scope::WorkersRead)),
            (Method::PUT, "/accounts/a/workers/scripts/w", Some(Scope::WorkersWrite)),
            (Method::PUT, "/accounts/a/workers/scripts/tails", Some(Scope::WorkersWrite)),
            (Method::POST, "/accounts/a/workers/scripts/w/tails", Some(Scope::TailRead)),
            (Method::GET, "/accounts/a/storage/kv/namespaces", Some(Scope::KvRead)),
            (Method::POST, "/accounts/a/storage/kv/namespaces/n/bulk/get", Some(Scope::KvRead)),
            (Method::PUT, "/accounts/a/storage/kv/namespaces/n/values/k", Some(Scope::KvWrite)),
            (Method::GET, "/zones", Some(Scope::WorkersRead)),
            (Method::POST, "/zones/z/workers/routes", Some(Scope::WorkersWrite)),
        ] {
            assert_eq!(scope_of(&method, path), scope, "{method} {path}");
        }
    }
}
