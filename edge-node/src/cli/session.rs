//! What every command works with: the environment, the terminal, and the node that they lead to.

use std::path::Path;

use super::api::Api;
use super::args::ProjectArgs;
use super::context;
use super::environment::Environment;
use super::error::CliError;
use super::terminal::Terminal;
use crate::project::{Project, find_config};

/// The surroundings of one command.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) environment: Environment,
    pub(crate) terminal: Terminal,
}

impl Session {
    /// The API of the node that the environment, the saved contexts or this machine lead to.
    pub(crate) async fn api(&self) -> Result<Api, CliError> {
        self.api_for(None).await
    }

    /// The same, with the account that a project names unless the environment names one.
    pub(crate) async fn api_for(&self, project: Option<&Project>) -> Result<Api, CliError> {
        let target = context::target(&self.environment).await?;
        target.connect(project.and_then(|p| p.account_id.clone())).await
    }

    /// The project around the current folder.
    pub(crate) fn project(&self, args: &ProjectArgs) -> Result<Project, CliError> {
        let path = match &args.config {
            Some(path) => path.clone(),
            None => find_config(&std::path::absolute(".").map_err(CliError::at(Path::new(".")))?)?,
        };
        Ok(Project::read(&path, args.env.as_deref())?)
    }

    /// The worker that a command is about: named, or else the project's.
    pub(crate) fn worker(
        &self,
        named: Option<String>,
        args: &ProjectArgs,
    ) -> Result<String, CliError> {
        if let Some(name) = named.or_else(|| args.name.clone()) {
            return Ok(name);
        }
        let project = self.project(args).map_err(|e| {
            CliError::Usage(format!("no worker is named, and there is no project here: {e}"))
        })?;
        project.name.ok_or_else(|| unnamed(&project.config_path))
    }
}

/// The error for a project without a name.
pub(crate) fn unnamed(config: &Path) -> CliError {
    let config = config.display();
    CliError::Failed(format!("the worker has no name: set \"name\" in {config}, or pass --name"))
}
