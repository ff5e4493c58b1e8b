//! A version's modules as the multipart form that an upload has.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::envelope::ApiError;
use crate::form::Form;
use crate::registry::{Version, content_type};

/// The form's parts are named as they were uploaded; the header `cf-entrypoint` names the main one.
pub(super) fn multipart(version: &Version) -> Result<Response, ApiError> {
    let mut form = Form::new();
    for module in &version.modules {
        form.file(&module.name, content_type(module.kind), &module.bytes);
    }
    let entrypoint =
        HeaderValue::from_bytes(version.main_module.as_bytes()).map_err(ApiError::internal)?;
    let (kind, body) = form.finish();
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    response.headers_mut().insert("cf-entrypoint", entrypoint);
    Ok(response)
}
