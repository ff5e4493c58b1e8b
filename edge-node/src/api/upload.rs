//! A script upload: its metadata and modules, read and checked before anything is stored.

use std::collections::{BTreeMap, HashSet};

use async_compression::Level;
use async_compression::tokio::write::GzipEncoder;
use axum::extract::Request;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::body::{self, Part};
use super::envelope::{ApiError, code};
use crate::config::LimitsConfig;
use crate::registry::{Module, ModuleKind, ScriptFormat, VersionLimits};

/// Metadata and multipart framing beside the modules, in bytes.
const OVERHEAD_BYTES_MAX: u64 = 4 << 20;
const MODULE_NAME_BYTES_MAX: usize = 1_024;
const FLAGS_MAX: usize = 100;
const FLAG_BYTES_MAX: usize = 128;
const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_BYTES_MAX: usize = 1_024;

/// The part `metadata`. Keys that change nothing here are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    main_module: Option<String>,
    body_part: Option<String>,
    pub(super) bindings: Vec<Value>,
    pub(super) keep_bindings: Option<Vec<String>>,
    pub(super) compatibility_date: Option<String>,
    pub(super) compatibility_flags: Vec<String>,
    pub(super) limits: VersionLimits,
    pub(super) annotations: BTreeMap<String, String>,
    assets: Option<Value>,
    containers: Option<Vec<Value>>,
    migrations: Option<Value>,
    tail_consumers: Option<Vec<Value>>,
    /// Settings of the worker, not of the version.
    observability: Option<Value>,
    logpush: Option<Value>,
    tags: Option<Value>,
}

/// A script that was uploaded.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) metadata: Metadata,
    pub(super) format: ScriptFormat,
    pub(super) main_module: String,
    pub(super) modules: Vec<Module>,
}

impl Upload {
    /// Reads the multipart form that wrangler sends.
    pub(super) async fn read(request: Request, limits: &LimitsConfig) -> Result<Self, ApiError> {
        let parts =
            body::read_multipart(request, form_bytes_max(limits)).await.map_err(|e| {
                match e.status == StatusCode::PAYLOAD_TOO_LARGE {
                    true => too_large(limits.script_bytes_max, ""),
                    false => e,
                }
            })?;
        let upload = Self::from_parts(parts)?;
        upload.check_size(limits).await?;
        Ok(upload)
    }

    fn from_parts(parts: Vec<Part>) -> Result<Self, ApiError> {
        let mut metadata = None;
        let mut modules = Vec::with_capacity(parts.len());
        for part in parts {
            match part.name.as_str() {
                "metadata" => metadata = Some(parse_metadata(&part.bytes)?),
                _ => modules.push(module(part)?),
            }
        }
        let metadata =
            metadata.ok_or_else(|| ApiError::invalid("the upload has no part named metadata"))?;
        metadata.check()?;
        let (format, named) = metadata.main()?;
        let main_module = check_modules(&modules, format, &named)?;
        Ok(Self { metadata, format, main_module, modules })
    }

    async fn check_size(&self, limits: &LimitsConfig) -> Result<(), ApiError> {
        let bytes: u64 = self.modules.iter().map(|module| module.bytes.len() as u64).sum();
        if bytes > limits.script_bytes_max {
            return Err(too_large(limits.script_bytes_max, ""));
        }
        if bytes <= limits.script_gzip_bytes_max {
            return Ok(());
        }
        let mut gzip = GzipEncoder::with_quality(Vec::new(), Level::Fastest);
        for module in self.modules.iter().filter(|module| module.kind != ModuleKind::SourceMap) {
            gzip.write_all(&module.bytes).await.map_err(ApiError::internal)?;
        }
        gzip.shutdown().await.map_err(ApiError::internal)?;
        match gzip.into_inner().len() as u64 > limits.script_gzip_bytes_max {
            true => Err(too_large(limits.script_gzip_bytes_max, " after gzip")),
            false => Ok(()),
        }
    }
}

impl Metadata {
    /// The settings that belong to the worker, as a JSON object: only those that were given.
    pub(super) fn worker_settings(&self) -> serde_json::Map<String, Value> {
        [("observability", &self.observability), ("logpush", &self.logpush), ("tags", &self.tags)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .collect()
    }

    fn main(&self) -> Result<(ScriptFormat, String), ApiError> {
        match (&self.main_module, &self.body_part) {
            (Some(main), None) => Ok((ScriptFormat::Modules, main.clone())),
            (None, Some(body)) => Ok((ScriptFormat::ServiceWorker, body.clone())),
            (Some(_), Some(_)) => {
                Err(ApiError::invalid("the metadata has both main_module and body_part"))
            }
            (None, None) => Err(ApiError::invalid(
                "the metadata has neither main_module nor body_part: a worker without a script is not supported",
            )),
        }
    }

    fn check(&self) -> Result<(), ApiError> {
        let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let listed = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
        for (key, present) in [
            ("assets", given(&self.assets)),
            ("migrations (Durable Objects)", given(&self.migrations)),
            ("containers", listed(&self.containers)),
            ("tail_consumers", listed(&self.tail_consumers)),
        ] {
            if present {
                return Err(ApiError::invalid(format!(
                    "{key} are not supported by this node: remove them from the project"
                )));
            }
        }
        check_compatibility(self.compatibility_date.as_deref(), &self.compatibility_flags)?;
        check_annotations(&self.annotations)
    }
}

pub(super) fn check_compatibility(date: Option<&str>, flags: &[String]) -> Result<(), ApiError> {
    if let Some(date) = date.filter(|date| !is_date(date)) {
        return Err(ApiError::invalid(format!(
            "compatibility_date {date:?} is not of the form 2026-01-31"
        )));
    }
    let fits = flags.len() <= FLAGS_MAX && flags.iter().all(|flag| flag.len() <= FLAG_BYTES_MAX);
    match fits {
        true => Ok(()),
        false => Err(ApiError::invalid(format!(
            "at most {FLAGS_MAX} compatibility_flags of {FLAG_BYTES_MAX} bytes are allowed"
        ))),
    }
}

pub(super) fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let fits = annotations.len() <= ANNOTATIONS_MAX
        && annotations.iter().all(|(key, text)| key.len() + text.len() <= ANNOTATION_BYTES_MAX);
    match fits {
        true => Ok(()),
        false => Err(ApiError::invalid(format!(
            "at most {ANNOTATIONS_MAX} annotations of {ANNOTATION_BYTES_MAX} bytes are allowed"
        ))),
    }
}

/// The largest form that can hold an allowed script.
pub(super) fn form_bytes_max(limits: &LimitsConfig) -> usize {
    let bytes = limits.script_bytes_max.saturating_add(OVERHEAD_BYTES_MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Names of one module with and without `./` are the same module.
pub(super) fn bare(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn parse_metadata(bytes: &[u8]) -> Result<Metadata, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::invalid(format!("the part metadata is not understood: {e}")))
}

fn module(part: Part) -> Result<Module, ApiError> {
    // Not the file name: for a blob of a service worker that is a path on the uploader's machine.
    let name = part.name;
    if bare(&name).is_empty()
        || name.len() > MODULE_NAME_BYTES_MAX
        || name.chars().any(char::is_control)
    {
        return Err(ApiError::invalid(format!(
            "module name {name:?} does not have 1 to {MODULE_NAME_BYTES_MAX} bytes without control characters"
        )));
    }
    let kind = match part.content_type.as_str() {
        "application/javascript+module" | "text/javascript+module" => ModuleKind::EsModule,
        "application/javascript" | "text/javascript" => ModuleKind::CommonJs,
        "application/wasm" => ModuleKind::Wasm,
        "text/plain" => ModuleKind::Text,
        "application/octet-stream" => ModuleKind::Data,
        "application/json" => ModuleKind::Json,
        "application/source-map" => ModuleKind::SourceMap,
        other => {
            return Err(ApiError::invalid(format!(
                "module {name} has the Content-Type {other:?}, which is not supported"
            )));
        }
    };
    Ok(Module { name, kind, bytes: part.bytes })
}

/// Finds the main module and returns its name as uploaded.
fn check_modules(
    modules: &[Module],
    format: ScriptFormat,
    named: &str,
) -> Result<String, ApiError> {
    let mut names = HashSet::new();
    if let Some(twice) = modules.iter().find(|module| !names.insert(bare(&module.name))) {
        return Err(ApiError::invalid(format!("module {} is uploaded twice", twice.name)));
    }
    let main = modules
        .iter()
        .find(|module| bare(&module.name) == bare(named))
        .ok_or_else(|| ApiError::invalid(format!("the main module {named} is not uploaded")))?;
    let is_script = match format {
        ScriptFormat::Modules => matches!(main.kind, ModuleKind::EsModule | ModuleKind::CommonJs),
        ScriptFormat::ServiceWorker => main.kind == ModuleKind::CommonJs,
    };
    if !is_script || std::str::from_utf8(&main.bytes).is_err() {
        return Err(ApiError::invalid(format!(
            "the main module {named} is not JavaScript in UTF-8 of the right Content-Type"
        )));
    }
    Ok(main.name.clone())
}

fn is_date(text: &str) -> bool {
    let fields: Vec<&str> = text.split('-').collect();
    let number = |field: &str, digits: usize| {
        let numeric = field.len() == digits && field.bytes().all(|b| b.is_ascii_digit());
        if numeric { field.parse::<u32>().ok() } else { None }
    };
    match fields[..] {
        [year, month, day] => {
            number(year, 4).is_some()
                && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
                && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
        }
        _ => false,
    }
}

fn too_large(bytes_max: u64, measured: &str) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        code::SCRIPT_TOO_LARGE,
        format!("the script is larger than {bytes_max} bytes{measured}: make it smaller"),
    )
}
