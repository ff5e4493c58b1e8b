//! Keys and values of KV namespaces, one by one and in bulk.

use std::sync::Arc;

use atoll_kv::{BulkWrite, Entry, Key, KvError, ListOptions, PutOptions, limits};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::body::{self, JsonBody};
use super::envelope::{Answer, ApiError, Envelope, code};
use super::kv::Owned;
use crate::observe::KvOperation;

/// A value with its metadata and multipart framing, in bytes.
const PUT_BYTES_MAX: usize = limits::VALUE_BYTES_MAX + (64 << 10);
/// A bulk write as JSON, where base64 and escapes make it larger than its values, in bytes.
const BULK_JSON_BYTES_MAX: usize = limits::BULK_BYTES_MAX / 3 * 4 + (1 << 20);
/// A list of keys as JSON, in bytes.
const KEYS_JSON_BYTES_MAX: usize = 16 << 20;

pub(super) fn routes() -> Router<ApiState> {
    const BASE: &str = "/accounts/{account}/storage/kv/namespaces/{namespace}";
    Router::new()
        .route(&format!("{BASE}/values/{{key}}"), get(read).put(write).delete(delete))
        .route(&format!("{BASE}/metadata/{{key}}"), get(metadata))
        .route(&format!("{BASE}/keys"), get(list))
        .route(&format!("{BASE}/bulk"), put(write_bulk).delete(delete_bulk))
        .route(&format!("{BASE}/bulk/delete"), post(delete_bulk))
        .route(&format!("{BASE}/bulk/get"), post(read_bulk))
}

impl ApiState {
    /// Counts an operation on the store.
    fn counted<T>(
        &self,
        operation: KvOperation,
        result: Result<T, KvError>,
    ) -> Result<T, ApiError> {
        self.config.hub.metrics().observe_kv(operation, &result);
        Ok(result?)
    }

    async fn entry(&self, namespace: &Owned, key: &str) -> Result<Entry, ApiError> {
        let key = Key::parse(key)?;
        let found = self.config.kv.get(&namespace.0, &key).await;
        self.counted(KvOperation::Get, found)?.ok_or_else(|| {
            ApiError::new(StatusCode::NOT_FOUND, code::KEY_NOT_FOUND, "get: 'key not found'")
        })
    }
}

#[derive(Deserialize)]
struct KeyPath {
    key: String,
}

async fn read(
    State(state): State<ApiState>,
    namespace: Owned,
    Path(path): Path<KeyPath>,
) -> Result<Response, ApiError> {
    let entry = state.entry(&namespace, &path.key).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mut response = (kind, entry.value).into_response();
    if let Some(expiration) = entry.expiration {
        response.headers_mut().insert("expiration", HeaderValue::from(expiration));
    }
    Ok(response)
}

async fn metadata(
    State(state): State<ApiState>,
    namespace: Owned,
    Path(path): Path<KeyPath>,
) -> Answer {
    Envelope::new(metadata_json(&state.entry(&namespace, &path.key).await?))
}

fn metadata_json(entry: &Entry) -> Value {
    let text = entry.metadata.as_deref().unwrap_or("null");
    serde_json::from_str(text).unwrap_or(Value::Null)
}

#[derive(Deserialize)]
struct PutQuery {
    expiration: Option<i64>,
    expiration_ttl: Option<i64>,
}

async fn write(
    State(state): State<ApiState>,
    namespace: Owned,
    Path(path): Path<KeyPath>,
    Query(query): Query<PutQuery>,
    request: Request,
) -> Answer {
    let key = Key::parse(&path.key)?;
    let _room = state.room_for_body(request.headers(), PUT_BYTES_MAX).await?;
    let (value, metadata) = read_value(request).await?;
    let options =
        PutOptions { expiration: query.expiration, expiration_ttl: query.expiration_ttl, metadata };
    let written = state.config.kv.put(&namespace.0, &key, value, options).await;
    state.counted(KvOperation::Put, written)?;
    Envelope::new(Value::Null)
}

async fn read_value(request: Request) -> Result<(Bytes, Option<Arc<str>>), ApiError> {
    if !body::is_multipart(request.headers()) {
        return Ok((body::read(request.into_body(), PUT_BYTES_MAX).await?, None));
    }
    let (mut value, mut metadata) = (None, None);
    for part in body::read_multipart(request, PUT_BYTES_MAX).await? {
        match part.name.as_str() {
            "value" => value = Some(part.bytes),
            "metadata" => {
                let text =
                    std::str::from_utf8(&part.bytes).map_err(|_| KvError::MetadataInvalid)?;
                metadata = Some(text.into());
            }
            other => return Err(ApiError::malformed(format!("part {other:?} is not known"))),
        }
    }
    let value = value.ok_or_else(|| ApiError::malformed("there is no part named value"))?;
    Ok((value, metadata))
}

async fn delete(
    State(state): State<ApiState>,
    namespace: Owned,
    Path(path): Path<KeyPath>,
) -> Answer {
    let deleted = state.config.kv.delete(&namespace.0, &Key::parse(&path.key)?).await;
    state.counted(KvOperation::Delete, deleted)?;
    Envelope::new(Value::Null)
}

#[derive(Deserialize)]
struct ListQuery {
    prefix: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

async fn list(
    State(state): State<ApiState>,
    namespace: Owned,
    Query(query): Query<ListQuery>,
) -> Answer {
    let options = ListOptions { prefix: query.prefix, limit: query.limit, cursor: query.cursor };
    let page = state.config.kv.list(&namespace.0, options).await;
    let page = state.counted(KvOperation::List, page)?;
    let info = json!({
        "count": page.keys.len(),
        "cursor": page.cursor.as_deref().unwrap_or_default(),
    });
    Ok(Envelope::new(page.keys)?.with_info(info))
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    value: String,
    #[serde(default)]
    base64: bool,
    expiration: Option<i64>,
    expiration_ttl: Option<i64>,
    metadata: Option<Box<RawValue>>,
}

impl Pair {
    fn into_write(self) -> Result<BulkWrite, ApiError> {
        let value = match self.base64 {
            true => BASE64_STANDARD.decode(&self.value).map_err(|e| {
                ApiError::malformed(format!("the value of key {:?} is not base64: {e}", self.key))
            })?,
            false => self.value.into_bytes(),
        };
        let metadata = self.metadata.filter(|json| json.get() != "null");
        Ok(BulkWrite {
            key: Key::parse(&self.key)?,
            value: value.into(),
            options: PutOptions {
                expiration: self.expiration,
                expiration_ttl: self.expiration_ttl,
                metadata: metadata.map(|json| json.get().into()),
            },
        })
    }
}

async fn write_bulk(State(state): State<ApiState>, namespace: Owned, request: Request) -> Answer {
    let _room = state.room_for_body(request.headers(), BULK_JSON_BYTES_MAX).await?;
    let bytes = body::read(request.into_body(), BULK_JSON_BYTES_MAX).await?;
    let pairs: Vec<Pair> = body::parse_json(&bytes)?;
    drop(bytes);
    let writes: Vec<BulkWrite> =
        pairs.into_iter().map(Pair::into_write).collect::<Result<_, _>>()?;
    let count = writes.len();
    let written = state.config.kv.write_bulk(&namespace.0, writes).await;
    state.counted(KvOperation::Put, written)?;
    Envelope::new(json!({ "successful_key_count": count, "unsuccessful_keys": [] }))
}

async fn delete_bulk(
    State(state): State<ApiState>,
    namespace: Owned,
    JsonBody(keys): JsonBody<Vec<String>, KEYS_JSON_BYTES_MAX>,
) -> Answer {
    let keys: Vec<Key> = keys.iter().map(|key| Key::parse(key)).collect::<Result<_, _>>()?;
    let count = keys.len();
    let deleted = state.config.kv.delete_bulk(&namespace.0, keys).await;
    state.counted(KvOperation::Delete, deleted)?;
    Envelope::new(json!({ "successful_key_count": count, "unsuccessful_keys": [] }))
}

#[derive(Deserialize)]
struct BulkGet {
    keys: Vec<String>,
    #[serde(default, rename = "withMetadata")]
    with_metadata: bool,
}

async fn read_bulk(
    State(state): State<ApiState>,
    namespace: Owned,
    JsonBody(wanted): JsonBody<BulkGet>,
) -> Answer {
    let keys: Vec<Key> = wanted.keys.iter().map(|key| Key::parse(key)).collect::<Result<_, _>>()?;
    let found = state.config.kv.get_many(&namespace.0, keys).await;
    let found = state.counted(KvOperation::Get, found)?;
    let values: Map<String, Value> = wanted
        .keys
        .into_iter()
        .zip(found)
        .map(|(key, entry)| {
            (key, entry.map_or(Value::Null, |e| found_json(&e, wanted.with_metadata)))
        })
        .collect();
    Envelope::new(json!({ "values": values }))
}

fn found_json(entry: &Entry, with_metadata: bool) -> Value {
    let mut found = json!({ "value": String::from_utf8_lossy(&entry.value) });
    if with_metadata {
        found["metadata"] = metadata_json(entry);
    }
    found
}
