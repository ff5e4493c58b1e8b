//! Certificates of the HTTPS listener, in the shape of Cloudflare's custom certificates, but of an account:
//! this node has no zones of its own.

use std::path::Path as FilePath;
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_router::{CertificateFacts, parse_pem};
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{delete, get};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Caller;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use super::routes::ensure_not_of_others;
use super::time::iso8601;
use crate::registry::{AcmeCertificate, Certificate, Scope, now_ms};

/// A chain and its key, as JSON.
const UPLOAD_BYTES_MAX: usize = 256 << 10;
/// Host names of one certificate.
const HOSTS_MAX: usize = 100;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/atoll/certificates", get(list).post(add))
        .route("/accounts/{account}/atoll/certificates/{id}", delete(remove))
}

async fn list(State(state): State<ApiState>, caller: Caller) -> Answer {
    let account = caller.account().clone();
    let operates = caller.token().scopes.contains(&Scope::AccountsWrite);
    let (uploaded, issued) = state
        .registry(move |registry| {
            let mut issued = registry.acme_certificates()?;
            let own = |host: &str| registry.snapshot().is_host_of(&account, host);
            issued.retain(|issued| operates || own(&issued.host));
            Ok((registry.certificates(&account)?, issued))
        })
        .await?;
    let uploaded = uploaded.iter().map(certificate_json);
    Envelope::list(uploaded.chain(issued.iter().map(issued_json)).collect())
}

#[derive(Deserialize)]
struct Upload {
    /// The chain as PEM, leaf first.
    certificate: String,
    private_key: String,
}

async fn add(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(upload): JsonBody<Upload, UPLOAD_BYTES_MAX>,
) -> Answer {
    let facts = check(&upload)?;
    let account = caller.account().clone();
    ensure_not_of_others(&state, &account, &facts.names)?;
    let Upload { certificate, private_key } = upload;
    let made = state
        .registry(move |registry| {
            let expires_s = u64::try_from(facts.not_after_s).unwrap_or(0);
            registry.add_certificate(&account, &facts.names, &certificate, &private_key, expires_s)
        })
        .await?;
    Envelope::new(certificate_json(&made))
}

/// What a certificate says, if clients can be served with it.
fn check(upload: &Upload) -> Result<CertificateFacts, ApiError> {
    let (chain, key) = (FilePath::new("certificate"), FilePath::new("private_key"));
    let (certificate, private_key) = (upload.certificate.as_bytes(), upload.private_key.as_bytes());
    let parsed = parse_pem(certificate, private_key, chain, key)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let facts = CertificateFacts::of(&parsed)
        .ok_or_else(|| ApiError::invalid("the certificate cannot be read"))?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if facts.not_after_s < i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX) {
        return Err(ApiError::invalid("the certificate has expired: upload a newer one"));
    }
    match facts.names.len() {
        0 => Err(ApiError::invalid(
            "the certificate has no DNS names (subject alternative names) to serve it for",
        )),
        1..=HOSTS_MAX => Ok(facts),
        _ => Err(ApiError::invalid(format!("a certificate has at most {HOSTS_MAX} host names"))),
    }
}

async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Answer {
    let account = caller.account().clone();
    let gone = id.clone();
    state.registry(move |registry| registry.delete_certificate(&account, &gone)).await?;
    Envelope::new(json!({ "id": id }))
}

fn certificate_json(certificate: &Certificate) -> Value {
    let uploaded = iso8601(certificate.created_ms);
    json!({
        "id": certificate.id,
        "hosts": certificate.hosts,
        "status": "active",
        "source": "upload",
        "bundle_method": "force",
        "uploaded_on": uploaded,
        "modified_on": uploaded,
        "expires_on": iso8601(certificate.expires_s.saturating_mul(1_000)),
    })
}

/// A certificate that an ACME authority issues, or does not issue yet. It is the node's: accounts see those of their
/// routes' hosts, and who may make accounts sees all.
fn issued_json(issued: &AcmeCertificate) -> Value {
    let time = |time_ms: u64| issued.id.is_some().then(|| iso8601(time_ms));
    let expires_ms = issued.expires_s.saturating_mul(1_000);
    let status = match issued.id {
        None => "pending_issuance",
        Some(_) if expires_ms < now_ms() => "expired",
        Some(_) => "active",
    };
    json!({
        "id": issued.id,
        "hosts": [issued.host],
        "status": status,
        "source": "acme",
        "uploaded_on": time(issued.issued_ms),
        "modified_on": time(issued.issued_ms),
        "expires_on": time(expires_ms),
        "next_try_on": iso8601(issued.due_ms),
        "failures": issued.failures,
        "error": issued.error,
    })
}
