//! Ops that give JS the parts of an incoming request, each when it is asked for.

use deno_core::{OpState, ResourceId, op2, v8};
use deno_error::JsErrorBox;

use super::{ended, invocations};
use crate::body::BodyResource;

fn latin1<'s>(scope: &mut v8::PinScope<'s, '_>, bytes: &[u8]) -> v8::Local<'s, v8::Value> {
    v8::String::new_from_one_byte(scope, bytes, v8::NewStringType::Normal)
        .unwrap_or_else(|| v8::String::empty(scope))
        .into()
}

/// The headers as `[[name, value], …]`, names in lower case.
#[op2]
pub(crate) fn op_request_headers<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: &mut OpState,
    #[smi] key: u32,
) -> Result<v8::Local<'a, v8::Array>, JsErrorBox> {
    let headers = invocations(state)
        .with(key, |invocation| {
            let request = invocation.request.as_mut()?;
            if let Some(facts) = request.facts.as_ref().filter(|_| !request.finished) {
                facts.finish_headers(&mut request.headers);
                request.finished = true;
            }
            Some(request.headers.clone())
        })
        .flatten()
        .ok_or_else(ended)?;
    let mut pairs = Vec::with_capacity(headers.len());
    for (name, value) in &headers {
        let pair = [latin1(scope, name.as_str().as_bytes()), latin1(scope, value.as_bytes())];
        pairs.push(v8::Array::new_with_elements(scope, &pair).into());
    }
    Ok(v8::Array::new_with_elements(scope, &pairs))
}

/// `request.cf` as JSON text.
#[op2]
#[string]
pub(crate) fn op_request_cf(state: &mut OpState, #[smi] key: u32) -> String {
    invocations(state)
        .with(key, |invocation| {
            let request = invocation.request.as_ref()?;
            request.facts.as_ref().map(|facts| facts.cf(&request.headers))
        })
        .flatten()
        .unwrap_or_else(|| "{}".to_owned())
}

/// What rules decided about the request, as JSON text; empty where nothing decided.
#[op2]
#[string]
pub(crate) fn op_request_flags(state: &mut OpState, #[smi] key: u32) -> String {
    invocations(state)
        .with(key, |invocation| invocation.request.as_ref()?.facts.as_ref()?.flags())
        .flatten()
        .unwrap_or_default()
}

/// The body as a resource. It can be taken once.
#[op2(fast)]
#[smi]
pub(crate) fn op_request_body(
    state: &mut OpState,
    #[smi] key: u32,
) -> Result<ResourceId, JsErrorBox> {
    let resource = invocations(state)
        .with(key, |invocation| {
            let body = invocation.request.as_mut()?.body.take()?;
            Some(invocation.hold(BodyResource::new(body, None)))
        })
        .flatten()
        .ok_or_else(ended)?;
    Ok(state.resource_table.add_rc(resource))
}
