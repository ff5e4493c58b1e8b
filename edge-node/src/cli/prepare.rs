//! From a folder to what can be uploaded: reads the project, runs its build, bundles it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::process::Command;

use super::args::ProjectArgs;
use super::error::CliError;
use super::session::{Session, unnamed};
use crate::bundle::{self, Bundle, BundleRequest, Purpose};
use crate::project::{BuildCommand, Project, ProjectBinding, ProjectError, find_config};

/// Which project to prepare, and how.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// A folder, or an entry script.
    pub(crate) path: PathBuf,
    pub(crate) project: ProjectArgs,
    pub(crate) purpose: Purpose,
    pub(crate) minify: bool,
    pub(crate) compatibility_date: Option<String>,
}

/// A project, ready to be uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) project: Project,
    pub(crate) name: String,
    pub(crate) compatibility_date: String,
    pub(crate) bundle: Bundle,
    /// When the bundler began to read: the bundle may lack what is saved later.
    pub(crate) read_at: SystemTime,
}

impl Source {
    /// Reads the project's configuration.
    pub(crate) fn read(&self) -> Result<Project, CliError> {
        let path = std::path::absolute(&self.path).map_err(CliError::at(&self.path))?;
        if !path.exists() {
            let shown = self.path.display();
            return Err(CliError::Failed(format!(
                "{shown} does not exist: name a project's folder"
            )));
        }
        let script = path.is_file();
        let dir = if script { path.parent().unwrap_or(Path::new("/")) } else { &path };
        let config = self.project.config.clone().map_or_else(|| find_config(dir), Ok);
        let mut project = match config {
            Ok(config) => Project::read(&config, self.project.env.as_deref())?,
            // A script alone is a project too, when the command line says the rest.
            Err(ProjectError::NotFound(_)) if script => Project::bare(dir),
            Err(error) => return Err(error.into()),
        };
        if script {
            project.main = Some(path);
        }
        Ok(project)
    }

    /// Reads, builds and bundles.
    pub(crate) async fn prepare(&self, session: &Session) -> Result<Prepared, CliError> {
        let project = self.read()?;
        project.warnings.iter().for_each(|w| session.terminal.warn(w.to_string()));
        let config = project.config_path.display();
        let named = self.project.name.clone().or_else(|| project.name.clone());
        let name = named.ok_or_else(|| unnamed(&project.config_path))?;
        let date = self.compatibility_date.clone().or_else(|| project.compatibility_date.clone());
        let compatibility_date = match (date, self.purpose) {
            (Some(date), _) => date,
            (None, Purpose::Develop) => crate::project::LATEST_COMPATIBILITY_DATE.to_owned(),
            (None, Purpose::Deploy) => {
                return Err(CliError::Failed(format!(
                    "a compatibility date is missing: add compatibility_date = \"{}\" to {config}, \
                     or pass --compatibility-date",
                    crate::project::LATEST_COMPATIBILITY_DATE
                )));
            }
        };
        if let Some(build) = &project.build {
            run_build(session, build).await?;
        }
        let entry = project.main.clone().ok_or_else(|| {
            CliError::Failed(format!("there is no entry script: set \"main\" in {config}"))
        })?;
        let read_at = SystemTime::now();
        let request = BundleRequest {
            project: &project,
            entry: &entry,
            purpose: self.purpose,
            minify: self.minify,
            color: session.terminal.color,
        };
        let notice = |text: &str| session.terminal.note(text);
        let source = session.environment.esbuild_source();
        let bundle = bundle::bundle(request, &source, &notice).await?;
        if !bundle.warnings.is_empty() {
            session.terminal.warn(bundle.warnings.trim_end());
        }
        Ok(Prepared { project, name, compatibility_date, bundle, read_at })
    }
}

impl Prepared {
    /// Sets variables over what the configuration says.
    pub(crate) fn set_vars(&mut self, vars: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in vars {
            self.project.bindings.retain(|binding| binding.name() != name);
            self.project.bindings.push(ProjectBinding::Var { name, value: value.into() });
        }
    }
}

async fn run_build(session: &Session, build: &BuildCommand) -> Result<(), CliError> {
    session.terminal.note(format!("running {}", build.command));
    // The build's own lines must not mix with the result, which may be JSON.
    let status = Command::new("sh")
        .args(["-c", &build.command])
        .current_dir(&build.cwd)
        .env("WRANGLER_COMMAND", "deploy")
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(CliError::at(&build.cwd))?;
    match status.success() {
        true => Ok(()),
        false => Err(CliError::Failed(format!("the build command failed ({status})"))),
    }
}
