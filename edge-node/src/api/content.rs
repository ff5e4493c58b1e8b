//! A version's modules as the multipart form that an upload has.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::envelope::ApiError;
use crate::registry::{ModuleKind, Version};

/// The form's parts are named as they were uploaded; the header `cf-entrypoint` names the main one.
pub(super) fn multipart(version: &Version) -> Result<Response, ApiError> {
    let boundary = format!("atoll-{:032x}", rand::random::<u128>());
    let mut body = Vec::new();
    for module in &version.modules {
        let name = quoted(&module.name);
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\nContent-Type: {}\r\n\r\n",
            media_type(module.kind)
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&module.bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let entrypoint =
        HeaderValue::from_bytes(version.main_module.as_bytes()).map_err(ApiError::internal)?;
    let kind = format!("multipart/form-data; boundary={boundary}");
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    response.headers_mut().insert("cf-entrypoint", entrypoint);
    Ok(response)
}

/// A name within quotes (WHATWG HTML, multipart/form-data encoding).
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

fn media_type(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::EsModule => "application/javascript+module",
        ModuleKind::CommonJs => "application/javascript",
        ModuleKind::Text => "text/plain",
        ModuleKind::Data => "application/octet-stream",
        ModuleKind::Json => "application/json",
        ModuleKind::Wasm => "application/wasm",
        ModuleKind::SourceMap => "application/source-map",
    }
}
