//! Scripts that are loaded late: they are no part of the snapshot, and an isolate compiles one when somebody first
//! asks for it (`js/late.js`).

use std::cell::{Cell as StdCell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deno_core::{OpState, op2, v8};

use crate::extension::LATE_SCRIPTS;

const COUNT: usize = LATE_SCRIPTS.len();

/// What V8 made of one script.
#[derive(Clone)]
struct Code {
    bytes: Arc<[u8]>,
    /// Whether it was made before any function was called that the script exports.
    lacks_functions: bool,
}

/// The compiled code of the scripts, for all isolates of the process. V8 trusts it: it is made here, of this binary's
/// own sources.
static CODE: Mutex<[Option<Code>; COUNT]> = Mutex::new([const { None }; COUNT]);

/// The place of the script that is compiled next before anybody asks for it: each is tried once in a process.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Whether there are scripts that [`LateScripts::compile_next`] has not tried.
pub(crate) fn has_ahead() -> bool {
    NEXT.load(Ordering::Relaxed) < COUNT
}

fn code() -> MutexGuard<'static, [Option<Code>; COUNT]> {
    CODE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known(place: usize) -> Option<Code> {
    code().get(place)?.clone()
}

fn keep(place: usize, script: v8::Local<'_, v8::Function>, lacks_functions: bool) {
    let Some(bytes) = script.create_code_cache() else { return };
    if let Some(kept) = code().get_mut(place) {
        *kept = Some(Code { bytes: bytes[..].into(), lacks_functions });
    }
}

/// A script that has run, by its place.
type Ran = (usize, v8::Global<v8::Function>);

/// What an isolate has of the scripts that are loaded late.
#[derive(Clone)]
pub(crate) struct LateScripts {
    sources: &'static [&'static str],
    ran: Rc<StdCell<usize>>,
    /// Those of which there may be more code to keep than the process has.
    compiled: Rc<RefCell<Vec<Ran>>>,
    /// Whom to tell of them.
    on_new_code: Rc<OnceCell<Box<dyn Fn()>>>,
}

impl LateScripts {
    /// Takes the sources, in the order of [`LATE_SCRIPTS`]: ASCII, wrapped as bodies of functions.
    pub(crate) fn new(sources: &'static [&'static str]) -> Self {
        Self { sources, ran: Rc::default(), compiled: Rc::default(), on_new_code: Rc::default() }
    }

    /// Calls `tell` when there may be more code to keep than the process has. The first word counts.
    pub(crate) fn on_new_code(&self, tell: Box<dyn Fn()>) {
        let _ = self.on_new_code.set(tell);
    }

    /// Compiles the next script without running it, if the process has no code of it: the first isolate that loads it
    /// has less to do.
    pub(crate) fn compile_next(&self, scope: &mut v8::PinScope<'_, '_>) {
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(source) = self.sources.get(place)
            && known(place).is_none()
            && let Some(script) = compile(scope, place, source)
        {
            keep(place, script, true);
        }
    }

    /// How many of them the isolate has loaded.
    pub(crate) fn loaded(&self) -> usize {
        self.ran.get()
    }

    /// Whether [`LateScripts::keep_code`] has something to do.
    pub(crate) fn has_new_code(&self) -> bool {
        !self.compiled.borrow().is_empty()
    }

    /// Keeps the code of what the isolate has loaded, with the functions that it has called, for others.
    pub(crate) fn keep_code(&self, scope: &mut v8::PinScope<'_, '_>) {
        for (place, script) in self.compiled.take() {
            if known(place).is_none_or(|code| code.lacks_functions) {
                keep(place, v8::Local::new(scope, script), false);
            }
        }
    }
}

/// Compiles the script at this place. The result is a function of `__bootstrap`, or null while the snapshot is made,
/// when none may be loaded. It is not called yet.
#[op2]
pub(crate) fn op_late_script<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: Rc<RefCell<OpState>>,
    #[smi] place: u32,
) -> Option<v8::Local<'a, v8::Function>> {
    let source = *state.borrow().try_borrow::<LateScripts>()?.sources.get(place as usize)?;
    compile(scope, place as usize, source)
}

/// What was thrown meanwhile is thrown when the op returns.
fn compile<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    place: usize,
    source: &'static str,
) -> Option<v8::Local<'a, v8::Function>> {
    let name = v8::String::new(scope, LATE_SCRIPTS[place])?.into();
    let source = v8::String::new_external_onebyte_static(scope, source.as_bytes())?;
    let parameter = v8::String::new(scope, "__bootstrap")?;
    let origin =
        v8::ScriptOrigin::new(scope, name, 0, 0, false, -1, None, false, false, false, None);
    let origin = Some(&origin);
    let code = known(place);
    let (mut source, options) = match &code {
        Some(code) => (
            v8::script_compiler::Source::new_with_cached_data(
                source,
                origin,
                v8::CachedData::new(&code.bytes),
            ),
            v8::script_compiler::CompileOptions::ConsumeCodeCache,
        ),
        None => (
            v8::script_compiler::Source::new(source, origin),
            v8::script_compiler::CompileOptions::NoCompileOptions,
        ),
    };
    let reason = v8::script_compiler::NoCacheReason::NoReason;
    v8::script_compiler::compile_function(scope, &mut source, &[parameter], &[], options, reason)
}

/// The script at this place has run to its end. Keeps its code.
#[op2(fast)]
pub(crate) fn op_late_script_ran<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: &mut OpState,
    #[smi] place: u32,
    script: v8::Local<'a, v8::Function>,
) {
    let Some(late) = state.try_borrow::<LateScripts>() else { return };
    late.ran.set(late.ran.get() + 1);
    let place = place as usize;
    let known = known(place);
    if known.is_none() {
        keep(place, script, true);
    }
    if known.is_none_or(|code| code.lacks_functions) {
        late.compiled.borrow_mut().push((place, v8::Global::new(scope, script)));
        if let Some(tell) = late.on_new_code.get() {
            tell();
        }
    }
}
