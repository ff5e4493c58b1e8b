//! What esbuild says about its own run (`--metafile`): only what is needed of it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The inputs and outputs of a run; paths are relative to the folder that esbuild ran in.
#[derive(Debug, Deserialize)]
pub(super) struct Metafile {
    pub(super) inputs: BTreeMap<String, serde::de::IgnoredAny>,
    pub(super) outputs: BTreeMap<String, Output>,
}

/// One file that was written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Output {
    #[serde(default)]
    pub(super) imports: Vec<Import>,
    #[serde(default)]
    pub(super) exports: Vec<String>,
    pub(super) entry_point: Option<String>,
    #[serde(default)]
    pub(super) inputs: BTreeMap<String, serde::de::IgnoredAny>,
}

/// One import that stayed in an output.
#[derive(Debug, Deserialize)]
pub(super) struct Import {
    pub(super) path: String,
}
