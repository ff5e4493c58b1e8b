//! The ops behind a KV namespace in `env`.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use deno_core::{CancelTryFuture, JsBuffer, OpState, ToJsBuffer, op2};
use deno_error::JsErrorBox;
use serde::Serialize;

use super::{InstanceState, instance, thrown};
use crate::host::{KvCall, KvReply};

#[derive(Serialize)]
pub(crate) struct Entry {
    value: ToJsBuffer,
    metadata: Option<String>,
}

async fn call(
    state: &Rc<RefCell<OpState>>,
    key: u32,
    capability: u32,
    call: KvCall,
) -> Result<KvReply, JsErrorBox> {
    let InstanceState { invocations, host } = instance(&state.borrow());
    let (_, by_end) = invocations.count_subrequest(key).map_err(JsErrorBox::generic)?;
    let reply = host.kv(capability, call);
    async move { reply.await.map_err(thrown) }.try_or_cancel(by_end).await
}

/// JS passes NaN for an option that was not given.
fn given(number: f64) -> Option<f64> {
    (!number.is_nan()).then_some(number)
}

fn mismatch() -> JsErrorBox {
    JsErrorBox::generic("the host gave an answer of the wrong kind")
}

#[op2(async(lazy))]
#[serde]
pub(crate) async fn op_kv_get(
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    #[smi] capability: u32,
    #[serde] keys: Vec<String>,
) -> Result<Vec<Option<Entry>>, JsErrorBox> {
    let KvReply::Entries(entries) = call(&state, key, capability, KvCall::Get { keys }).await?
    else {
        return Err(mismatch());
    };
    let entry = |entry: crate::host::KvEntry| Entry {
        value: ToJsBuffer::from(entry.value.to_vec()),
        metadata: entry.metadata.map(|text| text.to_string()),
    };
    Ok(entries.into_iter().map(|found| found.map(entry)).collect())
}

#[op2(async(lazy))]
#[allow(clippy::too_many_arguments, reason = "one call into Rust per put")]
pub(crate) async fn op_kv_put(
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    #[smi] capability: u32,
    #[string] name: String,
    #[buffer] value: JsBuffer,
    expiration: f64,
    expiration_ttl: f64,
    #[string] metadata: Option<String>,
) -> Result<(), JsErrorBox> {
    let value = Bytes::copy_from_slice(&value);
    let put = KvCall::Put {
        key: name,
        value,
        expiration: given(expiration),
        expiration_ttl: given(expiration_ttl),
        metadata,
    };
    call(&state, key, capability, put).await.map(|_| ())
}

#[op2(async(lazy), fast)]
pub(crate) async fn op_kv_delete(
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    #[smi] capability: u32,
    #[string] name: String,
) -> Result<(), JsErrorBox> {
    call(&state, key, capability, KvCall::Delete { key: name }).await.map(|_| ())
}

#[op2(async(lazy))]
#[string]
pub(crate) async fn op_kv_list(
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    #[smi] capability: u32,
    #[string] prefix: Option<String>,
    limit: f64,
    #[string] cursor: Option<String>,
) -> Result<String, JsErrorBox> {
    match call(&state, key, capability, KvCall::List { prefix, limit: given(limit), cursor })
        .await?
    {
        KvReply::Page(page) => Ok(page),
        _ => Err(mismatch()),
    }
}
