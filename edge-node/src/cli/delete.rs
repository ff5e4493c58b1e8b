//! `atoll delete`: removes a worker.

use http::Method;
use serde_json::{Value, json};

use super::args::DeleteArgs;
use super::client::{Body, segment};
use super::error::CliError;
use super::session::Session;

pub(crate) async fn run(session: &Session, args: DeleteArgs) -> Result<(), CliError> {
    let worker = session.worker(args.worker, &args.project)?;
    let question = format!("Delete the worker {worker} with its versions, routes and secrets?");
    session.terminal.confirm(&question, args.yes)?;
    let api = session.api().await?;
    let path = api.path(&format!("/workers/services/{}?force=true", segment(&worker)));
    api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
    match session.terminal.json {
        true => session.terminal.json(&json!({ "deleted": worker })),
        false => session.terminal.line(format!("deleted {worker}")),
    }
    Ok(())
}
