//! Reads request bodies within named limits of size and time. JSON is read whatever the
//! Content-Type says: clients send it as `text/plain`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::envelope::{ApiError, code};

/// A JSON body, in bytes, where nothing else is said.
pub(super) const JSON_BYTES_MAX: usize = 1 << 20;
/// From a request's head to the end of its body.
const BODY_READ_MS_MAX: u64 = 300_000;
/// Parts of one multipart body.
const PARTS_MAX: usize = 2_000;

/// Reads a whole body of at most `bytes_max` bytes.
pub(super) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let limited = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(Duration::from_millis(BODY_READ_MS_MAX), limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            code::BODY_TOO_LARGE,
            format!("the request's body is larger than {bytes_max} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::malformed("the request's body ended early")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            code::BODY_TOO_SLOW,
            format!("the request's body took longer than {BODY_READ_MS_MAX} ms"),
        )),
    }
}

/// A JSON body of at most `MAX` bytes.
pub(super) struct JsonBody<T, const MAX: usize = JSON_BYTES_MAX>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned, const MAX: usize> FromRequest<S> for JsonBody<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), MAX).await?;
        parse_json(&bytes).map(Self)
    }
}

pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::malformed(format!("the request's JSON is not understood: {e}")))
}

/// One part of a multipart body.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    /// Without parameters, in lower case; empty when the part has none.
    pub(super) content_type: String,
    pub(super) bytes: Bytes,
}

pub(super) fn is_multipart(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| media_type(value) == "multipart/form-data")
}

/// Reads a multipart body of at most `bytes_max` bytes in all.
pub(super) async fn read_multipart(
    request: Request,
    bytes_max: usize,
) -> Result<Vec<Part>, ApiError> {
    if !is_multipart(request.headers()) {
        return Err(ApiError::malformed("the request's Content-Type is not multipart/form-data"));
    }
    let unreadable =
        |e: &dyn std::fmt::Display| ApiError::malformed(format!("the multipart body: {e}"));
    let (head, body) = request.into_parts();
    let whole = read(body, bytes_max).await?;
    let request = Request::from_parts(head, Body::from(whole));
    let mut multipart = Multipart::from_request(request, &()).await.map_err(|e| unreadable(&e))?;
    let mut parts = Vec::new();
    while let Some(field) = multipart.next_field().await.map_err(|e| unreadable(&e.body_text()))? {
        if parts.len() == PARTS_MAX {
            return Err(ApiError::malformed(format!(
                "a multipart body has at most {PARTS_MAX} parts"
            )));
        }
        parts.push(Part {
            name: field.name().unwrap_or_default().to_owned(),
            content_type: field.content_type().map(media_type).unwrap_or_default(),
            bytes: field.bytes().await.map_err(|e| unreadable(&e.body_text()))?,
        });
    }
    Ok(parts)
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
