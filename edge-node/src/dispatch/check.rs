//! Starts uploaded scripts on a thread of their own, before they are accepted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use atoll_isolate::{
    Body, Engine, FetchHop, Host, HostError, Instance, InstanceOptions, IsolateThread, KvCall,
    KvReply, LogLine, StartError,
};
use futures_util::future::{BoxFuture, LocalBoxFuture};
use http::Response;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::pool::{environment, limits, script};
use super::quarantine::Culprit;
use crate::api::{CheckError, CheckReport, ScriptCheck};
use crate::config::LimitsConfig;
use crate::registry::Version;

/// Scripts that wait to be checked.
const CHECKS_QUEUED_MAX: usize = 64;

/// The stack of the checking thread, in bytes.
const STACK_BYTES: usize = 8 << 20;

struct Request {
    version: Version,
    answer: oneshot::Sender<Result<CheckReport, CheckError>>,
}

/// Checks scripts by starting them in an isolate without any capability.
pub struct IsolateCheck {
    requests: mpsc::Sender<Request>,
}

impl IsolateCheck {
    /// Starts the checking thread. It ends when the check is dropped.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(engine: Arc<Engine>, config: LimitsConfig) -> std::io::Result<Self> {
        let (requests, mut inbox) = mpsc::channel::<Request>(CHECKS_QUEUED_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("check".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                LocalSet::new().block_on(&runtime, async move {
                    let isolates = match engine.thread() {
                        Ok(isolates) => isolates,
                        Err(error) => return tracing::error!(%error, "scripts cannot be checked"),
                    };
                    while let Some(request) = inbox.recv().await {
                        let checked = check(&isolates, &config, &request.version).await;
                        // The uploader may have gone away.
                        let _ = request.answer.send(checked);
                    }
                });
            },
        )?;
        Ok(Self { requests })
    }
}

async fn check(
    isolates: &IsolateThread,
    config: &LimitsConfig,
    version: &Version,
) -> Result<CheckReport, CheckError> {
    let begun = Instant::now();
    let (bindings, _) = environment(version);
    let options = InstanceOptions {
        script: Arc::new(script(version)),
        bindings,
        limits: limits(config, &version.limits),
        host: Rc::new(NoHost),
        inspector: false,
        label: Culprit::label(version),
    };
    let instance = Instance::load(isolates, options).await.map_err(refusal)?;
    let startup_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let handlers = instance.handlers().to_vec();
    if handlers.is_empty() {
        return Err(CheckError {
            message: "the script has no handler: export a default object with fetch() or scheduled(), or call addEventListener(\"fetch\", …)".to_owned(),
            stack: None,
        });
    }
    Ok(CheckReport { handlers, startup_ms })
}

fn refusal(error: StartError) -> CheckError {
    match error {
        StartError::Script(exception) => CheckError {
            message: format!("Uncaught {}: {}", exception.name, exception.message),
            stack: exception.stack,
        },
        StartError::Limit(outcome) => CheckError {
            message: format!("Script startup exceeded a limit: {}", outcome.as_str()),
            stack: None,
        },
        other => CheckError { message: other.to_string(), stack: None },
    }
}

impl ScriptCheck for IsolateCheck {
    fn check<'a>(&'a self, version: &'a Version) -> BoxFuture<'a, Result<CheckReport, CheckError>> {
        Box::pin(async move {
            let (answer, wait) = oneshot::channel();
            let gone = || CheckError {
                message: "the node cannot check scripts now: try again".to_owned(),
                stack: None,
            };
            self.requests
                .send(Request { version: version.clone(), answer })
                .await
                .map_err(|_| gone())?;
            wait.await.map_err(|_| gone())?
        })
    }
}

/// A script that is only started reaches nothing.
struct NoHost;

impl Host for NoHost {
    fn fetch(&self, _: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        Box::pin(async {
            Err(HostError::Refused("nothing can be fetched during start-up".to_owned()))
        })
    }

    fn kv(&self, _: u32, _: KvCall) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        Box::pin(async { Err(HostError::Refused("KV cannot be used during start-up".to_owned())) })
    }

    fn console(&self, _: Option<&str>, _: &LogLine) {}
}
