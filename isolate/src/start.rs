//! Start-up: from a script to an instance that takes calls, within the start-up limits.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use deno_core::error::{CoreError, CoreErrorKind};
use deno_core::{JsRuntime, PollEventLoopOptions, v8};

use crate::boundary::{CallError, Entries};
use crate::exception::exception_of;
use crate::instance::{Inner, State};
use crate::loader::ScriptLoader;
use crate::outcome::{Exception, Outcome};
use crate::script::{Binding, ModuleKind, Script, ScriptFormat};

/// Wall time that a top-level `await` may take.
const TOP_LEVEL_WALL_MAX: Duration = Duration::from_secs(10);

/// Polls that a module graph without any asynchronous source may take to load.
const LOAD_POLLS_MAX: usize = 10_000;

/// Why a script did not become an instance.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The script does not compile, or threw while it started.
    #[error("{}", describe(.0))]
    Script(Exception),
    /// Start-up went over a limit.
    #[error("script start-up went over a limit: {}", .0.as_str())]
    Limit(Outcome),
    /// A top-level `await` never settles, or takes too long.
    #[error("a top-level await of the script does not settle")]
    TopLevelAwait,
}

fn describe(exception: &Exception) -> String {
    match &exception.stack {
        Some(stack) if stack.contains(&exception.message) => stack.clone(),
        Some(stack) => format!("{}: {}\n{stack}", exception.name, exception.message),
        None => format!("{}: {}", exception.name, exception.message),
    }
}

impl From<CallError> for StartError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Thrown(error) => Self::Script(exception_of(&error)),
            CallError::Terminated => Self::Limit(Outcome::ExceededCpu),
        }
    }
}

impl From<CoreError> for StartError {
    fn from(error: CoreError) -> Self {
        match error.into_kind() {
            CoreErrorKind::Js(error) => Self::Script(exception_of(&error)),
            other => Self::Script(crate::instance::plain_exception("Error", &other.to_string())),
        }
    }
}

type Evaluation = std::pin::Pin<Box<dyn Future<Output = Result<(), CoreError>>>>;

/// Polls a future that is never truly pending.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    (0..LOAD_POLLS_MAX).find_map(|_| match future.as_mut().poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

fn load_modules(
    runtime: &mut JsRuntime,
    loader: &ScriptLoader,
) -> Result<(deno_core::ModuleId, Evaluation), StartError> {
    let main = loader.main().map_err(|error| {
        StartError::Script(crate::instance::plain_exception("TypeError", &error.to_string()))
    })?;
    let id = at_once(runtime.load_main_es_module(&main)).ok_or(StartError::TopLevelAwait)??;
    let evaluation = Box::pin(runtime.mod_evaluate(id));
    Ok((id, evaluation))
}

/// Whether a script that was uploaded without saying so is CommonJS.
fn is_common_js(script: &Script) -> bool {
    script.module(&script.main).is_some_and(|main| {
        let source = String::from_utf8_lossy(&main.bytes);
        source.contains("module.exports") && !source.contains("addEventListener(")
    })
}

/// Runs the script's top level. Gives the names of the handlers.
pub(crate) async fn start(
    inner: &Rc<Inner>,
    entries: &Entries,
    script: &Script,
    loader: &ScriptLoader,
    bindings: &[Binding],
) -> Result<Vec<String>, StartError> {
    let budget = inner.limits.startup_cpu;
    let service_worker = script.format == ScriptFormat::ServiceWorker && !is_common_js(script);
    let (begun, mut spent) = inner.slice(budget, |runtime| {
        entries.bind(runtime, bindings)?;
        if service_worker {
            entries.expose_bindings(runtime)?;
            run_script(runtime, script)?;
            return Ok(None);
        }
        Ok::<_, StartError>(Some(load_modules(runtime, loader)?))
    });
    within_limits(inner)?;
    let module = begun?;
    let mut namespace = None;
    if let Some((id, mut evaluation)) = module {
        let evaluated = std::future::poll_fn(|cx| {
            let left = budget.saturating_sub(spent);
            let (polled, cpu) = inner.slice(left, |runtime| evaluate(runtime, &mut evaluation, cx));
            spent += cpu;
            if inner.state() == State::Live { polled } else { Poll::Ready(Ok(())) }
        });
        let evaluated = tokio::time::timeout(TOP_LEVEL_WALL_MAX, evaluated).await;
        within_limits(inner)?;
        evaluated.map_err(|_| StartError::TopLevelAwait)??;
        namespace = Some(inner.slice(budget, |runtime| runtime.get_module_namespace(id)).0?);
    }
    let (handlers, _) = inner.slice(budget.saturating_sub(spent), |runtime| {
        entries.install(runtime, namespace.as_ref())
    });
    within_limits(inner)?;
    Ok(handlers?)
}

fn within_limits(inner: &Inner) -> Result<(), StartError> {
    match inner.state() {
        State::Live => Ok(()),
        State::Condemned(outcome) => Err(StartError::Limit(outcome)),
    }
}

fn evaluate(
    runtime: &mut JsRuntime,
    evaluation: &mut Evaluation,
    cx: &mut Context<'_>,
) -> Poll<Result<(), StartError>> {
    let turned = runtime.poll_event_loop(cx, PollEventLoopOptions::default());
    if let Poll::Ready(evaluated) = evaluation.as_mut().poll(cx) {
        return Poll::Ready(evaluated.map_err(StartError::from));
    }
    match turned {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        Poll::Ready(Ok(())) => Poll::Ready(Err(StartError::TopLevelAwait)),
        Poll::Pending => Poll::Pending,
    }
}

fn run_script(
    runtime: &mut JsRuntime,
    script: &Script,
) -> Result<v8::Global<v8::Value>, StartError> {
    let main = script.module(&script.main).filter(|main| main.kind != ModuleKind::SourceMap);
    let main = main.ok_or_else(|| {
        let message = format!("the script has no part {:?} to start from", script.main);
        StartError::Script(crate::instance::plain_exception("TypeError", &message))
    })?;
    let source = String::from_utf8_lossy(&main.bytes).into_owned();
    let name = format!("file:///{}", crate::script::plain(&main.name));
    runtime.execute_script(name, source).map_err(|error| StartError::Script(exception_of(&error)))
}
