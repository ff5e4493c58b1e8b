//! Calls from Rust into the runtime's own JS: bootstrap, install, and one call for each event.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use deno_core::error::JsError;
use deno_core::{CustomModuleEvaluationKind, FastString, JsRuntime, ModuleSourceCode, scope, v8};
use deno_error::JsErrorBox;

use super::footprint::Footprint;
use super::rejections::{self, Rejections};
use crate::inspector::Inspector;
use crate::invocation::{Answer, InvocationKey, Invocations};
use crate::loader::WASM_TYPE;
use crate::ops::respond::plain_text;
use crate::ops::time::SeenTime;
use crate::script::{Binding, BindingValue};

/// The functions that `js/main.js` gives out. What every call looks at goes first.
#[repr(C)]
pub(crate) struct Entries {
    /// The isolate's one context. `deno_core::scope!` would make a global handle of it for each scope.
    context: v8::Global<v8::Context>,
    fetch: v8::Global<v8::Function>,
    rejections: Rc<Rejections>,
    scheduled: v8::Global<v8::Function>,
    rule: v8::Global<v8::Function>,
    bind: v8::Global<v8::Function>,
    install: v8::Global<v8::Function>,
    expose_bindings: v8::Global<v8::Function>,
    report_rejection: v8::Global<v8::Function>,
}

/// Why a call into JS did not return.
pub(crate) enum CallError {
    /// It threw.
    Thrown(Box<JsError>),
    /// Execution was ended from outside.
    Terminated,
}

fn property<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'s, v8::Object>,
    name: &str,
) -> Option<v8::Local<'s, v8::Value>> {
    let key = v8::String::new(scope, name)?;
    object.get(scope, key.into())
}

fn function(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
    name: &str,
) -> v8::Global<v8::Function> {
    let key = v8::String::new(scope, name).expect("a short name is a valid string");
    let value = object.get(scope, key.into()).expect("the snapshot defines every entry");
    let function: v8::Local<'_, v8::Function> =
        value.try_into().expect("every entry is a function");
    v8::Global::new(scope, function)
}

fn blobs<'s>(scope: &mut v8::PinScope<'s, '_>, bindings: &[Binding]) -> v8::Local<'s, v8::Object> {
    let object = v8::Object::new(scope);
    for binding in bindings {
        let (BindingValue::Data { bytes } | BindingValue::Wasm { bytes }) = &binding.value else {
            continue;
        };
        if let (Some(key), Some(view)) =
            (v8::String::new(scope, &binding.name), byte_array(scope, bytes))
        {
            object.set(scope, key.into(), view.into());
        }
    }
    object
}

fn byte_array<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    bytes: &Bytes,
) -> Option<v8::Local<'s, v8::Uint8Array>> {
    let store = v8::ArrayBuffer::new_backing_store_from_vec(bytes.to_vec()).make_shared();
    let buffer = v8::ArrayBuffer::with_backing_store(scope, &store);
    v8::Uint8Array::new(scope, buffer, 0, bytes.len())
}

/// What `env` holds goes to the instance as JSON, with the bytes beside it.
fn call_with_bindings(
    scope: &mut v8::PinScope<'_, '_>,
    function: &v8::Global<v8::Function>,
    bindings: &[Binding],
) -> Result<(), CallError> {
    let json = serde_json_of(bindings);
    let json = v8::String::new(scope, &json).ok_or(CallError::Terminated)?;
    let blobs = blobs(scope, bindings);
    call(scope, function, &[json.into(), blobs.into()], |_, _| ())
}

/// Takes the runtime's entries off the global object, hides the machinery, and puts the globals in their
/// place. With an inspector, what the script writes to the console goes there too.
pub(crate) fn install_entries(
    runtime: &mut JsRuntime,
    inspector: Option<&Inspector>,
) -> Result<Entries, CallError> {
    let time = runtime.op_state().borrow().borrow::<SeenTime>().clone();
    scope!(scope, runtime);
    let context = scope.get_current_context();
    context.set_allow_generation_from_strings(false);
    let global = context.global(scope);
    let holder = property(scope, global, "__atoll").expect("the snapshot defines __atoll");
    let holder: v8::Local<'_, v8::Object> = holder.try_into().expect("__atoll is an object");
    let entries = Entries {
        context: v8::Global::new(scope, context),
        fetch: function(scope, holder, "dispatchFetch"),
        rejections: Rc::default(),
        scheduled: function(scope, holder, "dispatchScheduled"),
        rule: function(scope, holder, "dispatchRule"),
        bind: function(scope, holder, "bind"),
        install: function(scope, holder, "install"),
        expose_bindings: function(scope, holder, "exposeBindings"),
        report_rejection: function(scope, holder, "reportRejection"),
    };
    let bootstrap = function(scope, holder, "bootstrap");
    let key = v8::String::new(scope, "__atoll").expect("a short name is a valid string");
    global.delete(scope, key.into());
    let inspected = v8::Boolean::new(scope, inspector.is_some());
    let time = v8::ArrayBuffer::with_backing_store(scope, time.store());
    call(scope, &bootstrap, &[inspected.into(), time.into()], |_, _| ())?;
    Ok(entries)
}

fn serde_json_of(bindings: &[Binding]) -> String {
    deno_core::serde_json::to_string(bindings).expect("bindings are plain data")
}

fn call<R>(
    scope: &mut v8::PinScope<'_, '_>,
    function: &v8::Global<v8::Function>,
    arguments: &[v8::Local<'_, v8::Value>],
    read: impl for<'a> FnOnce(&mut v8::PinScope<'a, '_>, v8::Local<'a, v8::Value>) -> R,
) -> Result<R, CallError> {
    v8::tc_scope!(let scope, scope);
    let function = v8::Local::new(scope, function);
    let receiver = v8::undefined(scope).into();
    match function.call(scope, receiver, arguments) {
        Some(value) => Ok(read(scope, value)),
        None if scope.has_terminated() => Err(CallError::Terminated),
        None => {
            let thrown = scope.exception().unwrap_or_else(|| v8::undefined(scope).into());
            Err(CallError::Thrown(JsError::from_v8_exception(scope, thrown)))
        }
    }
}

unsafe extern "C" fn refuse_wasm(
    _context: v8::Local<'_, v8::Context>,
    _source: v8::Local<'_, v8::String>,
) -> bool {
    false
}

/// Makes the value of an imported WebAssembly module, whenever it is imported.
pub(super) fn wasm_module(
    scope: &mut v8::PinScope<'_, '_>,
    kind: Cow<'_, str>,
    name: &FastString,
    code: ModuleSourceCode,
) -> Result<CustomModuleEvaluationKind, JsErrorBox> {
    let refused = |why: &str| JsErrorBox::type_error(format!("{}: {why}", name.as_str()));
    if kind != WASM_TYPE {
        return Err(refused("modules have no such type"));
    }
    v8::tc_scope!(let scope, scope);
    match v8::WasmModuleObject::compile(scope, code.as_bytes()) {
        Some(module) => {
            let value: v8::Local<'_, v8::Value> = module.into();
            Ok(CustomModuleEvaluationKind::Synthetic(v8::Global::new(scope, value)))
        }
        None => {
            let thrown = scope.exception().map(|thrown| thrown.to_rust_string_lossy(scope));
            Err(refused(&thrown.unwrap_or_default()))
        }
    }
}

/// How much of a module is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compile {
    /// What runs when the module is loaded, and the functions that V8 has compiled already.
    Outermost,
    /// Every function.
    Whole,
}

/// The compiled code of a module. Of one that the isolate has run, V8 finds every function again that has been called
/// since, by its source and name, so that nothing is compiled here unless V8 has dropped it.
pub(crate) fn module_code(
    runtime: &mut JsRuntime,
    name: &str,
    source: &str,
    how: Compile,
) -> Option<Vec<u8>> {
    scope!(scope, runtime);
    v8::tc_scope!(let scope, scope);
    let name = v8::String::new(scope, name)?;
    let source = v8::String::new(scope, source)?;
    // As deno_core compiled it: another origin would be another module.
    let origin =
        v8::ScriptOrigin::new(scope, name.into(), 0, 0, false, 0, None, false, false, true, None);
    let mut source = v8::script_compiler::Source::new(source, Some(&origin));
    let options = match how {
        Compile::Outermost => v8::script_compiler::CompileOptions::NoCompileOptions,
        Compile::Whole => v8::script_compiler::CompileOptions::EagerCompile,
    };
    let reason = v8::script_compiler::NoCacheReason::NoReason;
    let module = v8::script_compiler::compile_module2(scope, &mut source, options, reason)?;
    let code = module.get_unbound_module_script(scope).create_code_cache()?;
    Some(code.to_vec())
}

/// The methods that `js/main.js` has strings of, in the order of its `METHODS`.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// A method as `dispatchFetch` takes it: a place in `METHODS`, or a string.
fn method_value<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    method: &str,
) -> Option<v8::Local<'s, v8::Value>> {
    match METHODS.iter().position(|known| *known == method) {
        Some(place) => Some(v8::Integer::new(scope, place as i32).into()),
        None => Some(text(scope, method)?.into()),
    }
}

/// A string, made the short way when it is ASCII, as nearly all are.
fn text<'s>(scope: &mut v8::PinScope<'s, '_>, text: &str) -> Option<v8::Local<'s, v8::String>> {
    match text.is_ascii() {
        true => v8::String::new_from_one_byte(scope, text.as_bytes(), v8::NewStringType::Normal),
        false => v8::String::new(scope, text),
    }
}

/// What an event's dispatch function takes.
pub(crate) enum Call<'a> {
    Fetch { method: &'a str, url: &'a str, has_body: bool },
    Scheduled { cron: &'a str, scheduled_ms: u64 },
    Rule { method: &'a str, url: &'a str },
}

impl Entries {
    /// Calls the handler for one event and runs the microtasks that follow from it. What the call returns is the
    /// invocation's answer; others come by ops.
    pub(crate) fn dispatch(
        &self,
        runtime: &mut JsRuntime,
        invocations: &Invocations,
        footprint: &Footprint,
        key: InvocationKey,
        event: &Call<'_>,
    ) -> Result<(), CallError> {
        footprint.begin_call();
        let isolate = runtime.v8_isolate();
        v8::scope!(scope, isolate);
        let context = v8::Local::new(scope, &self.context);
        let scope = &mut v8::ContextScope::new(scope, context);
        let id = v8::Integer::new_from_unsigned(scope, key).into();
        let called = match event {
            Call::Fetch { method, url, has_body } => {
                let method = method_value(scope, method);
                let url = text(scope, url);
                let (Some(method), Some(url)) = (method, url) else {
                    return Err(CallError::Terminated);
                };
                let has_body = v8::Boolean::new(scope, *has_body).into();
                call(scope, &self.fetch, &[id, method, url.into(), has_body], |scope, returned| {
                    if let Ok(text) = v8::Local::<v8::String>::try_from(returned) {
                        let text = text.to_rust_string_lossy(scope);
                        invocations.answer(key, Answer::Response(plain_text(text)));
                    }
                })
            }
            Call::Rule { method, url } => {
                let (method, url) = (method_value(scope, method), text(scope, url));
                let (Some(method), Some(url)) = (method, url) else {
                    return Err(CallError::Terminated);
                };
                call(scope, &self.rule, &[id, method, url.into()], |_, _| ())
            }
            Call::Scheduled { cron, scheduled_ms } => {
                let Some(cron) = v8::String::new(scope, cron) else {
                    return Err(CallError::Terminated);
                };
                let time = v8::Number::new(scope, *scheduled_ms as f64).into();
                call(scope, &self.scheduled, &[id, cron.into(), time], |_, _| ())
            }
        };
        called?;
        footprint.end_call(scope, &self.context, &self.fetch);
        scope.perform_microtask_checkpoint();
        self.report_rejections_in(scope);
        if scope.is_execution_terminating() { Err(CallError::Terminated) } else { Ok(()) }
    }

    /// Adds what every call looks at.
    pub(crate) fn add_to(&self, footprint: &Footprint) {
        footprint.add(&*self.rejections);
    }

    /// Forgets whose code ran last: an execution that was ended leaves that behind.
    pub(crate) fn forget_context(&self, runtime: &mut JsRuntime) {
        scope!(scope, runtime);
        let nobody = v8::undefined(scope).into();
        scope.set_continuation_preserved_embedder_data(nobody);
    }

    /// Reports what was rejected and is not handled. Says whether there was anything.
    pub(crate) fn report_rejections(&self, runtime: &mut JsRuntime) -> bool {
        scope!(scope, runtime);
        self.report_rejections_in(scope)
    }

    fn report_rejections_in(&self, scope: &mut v8::PinScope<'_, '_>) -> bool {
        self.rejections.report(|reason, context| {
            let reason = v8::Local::new(scope, reason);
            let context = v8::Local::new(scope, context);
            // What cannot be reported, because execution was ended, has its outcome already.
            let _ = call(scope, &self.report_rejection, &[reason, context], |_, _| ());
        })
    }

    /// Fills in `env`.
    pub(crate) fn bind(
        &self,
        runtime: &mut JsRuntime,
        bindings: &[Binding],
    ) -> Result<(), CallError> {
        scope!(scope, runtime);
        call_with_bindings(scope, &self.bind, bindings)
    }

    /// Makes the bindings globals, as service-worker scripts see them.
    pub(crate) fn expose_bindings(&self, runtime: &mut JsRuntime) -> Result<(), CallError> {
        scope!(scope, runtime);
        call(scope, &self.expose_bindings, &[], |_, _| ())
    }

    /// Hands the script's default export over. Gives the names of the handlers that it has. From here on no
    /// WebAssembly is made from bytes, imported modules and bindings apart, and rejections are reported with the
    /// slices that they come in.
    pub(crate) fn install(
        &self,
        runtime: &mut JsRuntime,
        namespace: Option<&v8::Global<v8::Object>>,
    ) -> Result<Vec<String>, CallError> {
        runtime.v8_isolate().set_allow_wasm_code_generation_callback(refuse_wasm);
        rejections::track(runtime.v8_isolate(), self.rejections.clone());
        scope!(scope, runtime);
        let exported = match namespace {
            Some(namespace) => {
                let namespace = v8::Local::new(scope, namespace);
                property(scope, namespace, "default")
            }
            None => None,
        };
        let exported = exported.unwrap_or_else(|| v8::undefined(scope).into());
        call(scope, &self.install, &[exported], |scope, names| {
            let Ok(names) = v8::Local::<v8::Array>::try_from(names) else { return Vec::new() };
            let mut found = Vec::new();
            for index in 0..names.length() {
                if let Some(name) = names.get_index(scope, index) {
                    found.push(name.to_rust_string_lossy(scope));
                }
            }
            found
        })
    }
}
