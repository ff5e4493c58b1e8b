//! A check process: the child of a supervisor that starts uploaded scripts, one at a time. It serves nobody
//! and reaches nothing; it ends when the supervisor closes the link.

use tokio::signal::unix::{SignalKind, signal};

use super::start_engine;
use crate::api::{CheckError, ScriptCheck};
use crate::dispatch::IsolateCheck;
use crate::observe::init_log;
use crate::process::{
    CheckStart, FrameLimits, FromCheck, LinkError, ToCheck, join_modules, open, own_link,
    receive_fds,
};
use crate::sandbox::{self, SandboxOptions};

/// What the supervisor may send: a version's modules are payload.
const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 64 << 20, payload_bytes_max: 1 << 30 };

/// `atoll check-process`: checks scripts until the supervisor closes the link. Must be called before other
/// threads are started.
///
/// # Errors
/// When it cannot start, or does not understand the supervisor.
pub(crate) fn run() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(check())
}

async fn check() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // A signal to the whole process group is the supervisor's to understand.
    let _ignored = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let socket = own_link()?;
    let crashes = receive_fds(&socket).await?.pop().ok_or("a descriptor is missing")?;
    let (link, mut supervisor) = open::<FromCheck, ToCheck>(socket, LIMITS);
    let (ToCheck::Start(CheckStart { limits, memory, log }), _) = supervisor.next().await? else {
        return Err("the supervisor does not begin with the start".into());
    };
    init_log(&log)?;
    atoll_isolate::report_crashes(crashes)?;
    let sandbox = sandbox::enter(&SandboxOptions::default());
    tracing::debug!(%sandbox, "checking scripts");
    let engine = start_engine(&memory)?;
    let check = IsolateCheck::start(engine, limits)?;
    loop {
        let (version, parts, payload) = match supervisor.next().await {
            Ok((ToCheck::Check(version, parts), payload)) => (*version, parts, payload),
            Ok((ToCheck::Start(_), _)) => return Err(LinkError::OutOfTurn("start").into()),
            Err(LinkError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let checked = match join_modules(version, parts, payload) {
            Some(version) => check.check(&version).await,
            None => Err(CheckError {
                message: "the script did not arrive whole: try again".to_owned(),
                stack: None,
            }),
        };
        link.send(&FromCheck::Checked(checked), Vec::new()).await?;
    }
}
