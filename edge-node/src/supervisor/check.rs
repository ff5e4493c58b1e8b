//! Checks uploaded scripts in a process of their own: a script that aborts V8 takes nothing else along. The
//! process is started at the first upload, and ended when nobody has uploaded anything for a while.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::child::{Child, Ended};
use crate::api::{CheckError, CheckReport, ScriptCheck};
use crate::config::NodeConfig;
use crate::process::{
    CheckStart, FrameLimits, FromCheck, LinkError, LinkReader, LinkSender, ToCheck, open, send_fds,
    split_modules,
};
use crate::registry::Version;

/// Scripts that wait to be checked.
const CHECKS_QUEUED_MAX: usize = 64;

/// How long the process is kept for the next upload.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What a check may take beyond a script's start-up time: V8's start, and a top-level `await`.
const CHECK_GRACE: Duration = Duration::from_secs(20);

/// What the process may send.
const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 4 << 20, payload_bytes_max: 0 };

struct Request {
    version: Version,
    answer: oneshot::Sender<Result<CheckReport, CheckError>>,
}

/// Checks scripts in a child process.
pub(super) struct ProcessCheck {
    requests: mpsc::Sender<Request>,
}

/// A running check process.
struct Checker {
    child: Child,
    sender: LinkSender<ToCheck>,
    reader: LinkReader<FromCheck>,
}

/// The one that starts, uses and ends the process.
struct Checks {
    config: NodeConfig,
    variables: Vec<(OsString, OsString)>,
    checker: Option<Checker>,
}

impl ProcessCheck {
    /// Starts the task that checks one script after another.
    pub(super) fn start(
        config: &NodeConfig,
        variables: Vec<(OsString, OsString)>,
    ) -> (Self, JoinHandle<()>) {
        let (requests, queue) = mpsc::channel(CHECKS_QUEUED_MAX);
        let checks = Checks { config: config.clone(), variables, checker: None };
        (Self { requests }, tokio::spawn(checks.run(queue)))
    }
}

impl ScriptCheck for ProcessCheck {
    fn check<'a>(&'a self, version: &'a Version) -> BoxFuture<'a, Result<CheckReport, CheckError>> {
        Box::pin(async move {
            let gone = || refusal("the node cannot check scripts now: try again");
            let (answer, answered) = oneshot::channel();
            let request = Request { version: version.clone(), answer };
            self.requests.send(request).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        })
    }
}

fn refusal(message: impl Into<String>) -> CheckError {
    CheckError { message: message.into(), stack: None }
}

impl Checks {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            match tokio::time::timeout(IDLE_MAX, queue.recv()).await {
                Ok(Some(request)) => {
                    let checked = self.check(&request.version).await;
                    // The uploader may have gone away.
                    let _ = request.answer.send(checked);
                }
                Ok(None) => return,
                Err(_) => {
                    if let Some(Checker { child, sender, reader }) = self.checker.take() {
                        drop((sender, reader));
                        child.end().await;
                    }
                }
            }
        }
    }

    async fn check(&mut self, version: &Version) -> Result<CheckReport, CheckError> {
        // Between two uploads anything may have ended it.
        let running = self.checker.as_mut().is_some_and(|checker| checker.child.is_running());
        let mut checker = match self.checker.take().filter(|_| running) {
            Some(checker) => checker,
            None => self.start().await.map_err(|error| {
                tracing::error!(%error, "scripts cannot be checked");
                refusal("the node cannot start a process to check the script: try again")
            })?,
        };
        let (parts, payload) = split_modules(version);
        let asked = ToCheck::Check(Box::new(version.clone()), parts);
        let answered = async {
            checker.sender.send(&asked, payload).await?;
            checker.reader.next().await
        };
        let startup = Duration::from_millis(self.config.limits.startup_cpu_ms_max);
        match tokio::time::timeout(startup.saturating_add(CHECK_GRACE), answered).await {
            Ok(Ok((FromCheck::Checked(checked), _))) => {
                self.checker = Some(checker);
                checked
            }
            Ok(Err(LinkError::Closed | LinkError::Io(_))) => {
                let ended = checker.child.end().await;
                Err(aborted(version, &ended))
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the check process is not understood");
                checker.child.kill().await;
                Err(refusal("the node failed to check the script: try again"))
            }
            Err(_) => {
                checker.child.kill().await;
                Err(refusal("the script does not start in time"))
            }
        }
    }

    async fn start(&self) -> Result<Checker, LinkError> {
        let (child, socket) = Child::start("check-process", &self.variables)?;
        send_fds(&socket, &[child.crash_report().as_fd()]).await?;
        let (sender, reader) = open::<ToCheck, FromCheck>(socket, LIMITS);
        let NodeConfig { limits, memory, log, .. } = self.config.clone();
        sender.send(&ToCheck::Start(CheckStart { limits, memory, log }), Vec::new()).await?;
        Ok(Checker { child, sender, reader })
    }
}

fn aborted(version: &Version, ended: &Ended) -> CheckError {
    let (worker, how) = (&version.worker, ended.how());
    tracing::error!(
        worker = worker.worker.as_str(),
        account = worker.account.as_str(),
        how = how.as_str(),
        "an uploaded script aborted the engine and is refused"
    );
    let cause = match ended.is_out_of_cpu_time() {
        true => "what it searches, sorts or normalizes",
        false => "what it allocates",
    };
    refusal(format!(
        "the script aborted the engine while it started ({how}): it was refused, look for {cause} at its top level"
    ))
}
