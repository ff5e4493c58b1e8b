//! The command line: finds a node, talks to its API, and runs nodes on this machine.
//! Nothing below here reads the process's environment; it comes in as [`Environment`].

mod api;
mod archive;
mod args;
mod certificates;
mod client;
mod cluster;
mod context;
mod delete;
mod demo;
mod deploy;
mod dev;
mod environment;
mod error;
mod events;
mod init;
mod kv;
mod local_node;
mod nodes;
mod pools;
mod prepare;
mod publish;
mod regions;
mod restart;
mod rule_args;
mod rule_status;
mod rules;
mod samples;
mod secret;
mod session;
mod stacks;
mod stop;
mod tail;
mod terminal;
#[cfg(test)]
mod tests;
mod upload;
mod versions;
mod watch;
mod whoami;

use std::process::ExitCode;

pub use args::{Cli, Command, ServeArgs};
pub use client::{ApiError, ApiMessage};
pub use environment::{ApiVariables, Environment};
pub use error::CliError;

use crate::archive::MissingValue;
use crate::serving::{run_check_process, run_serving_process};
use args::{DeploymentsCommand, VersionsCommand};
use session::Session;
use terminal::Terminal;

/// Runs a command to its end: 0 when it went well, 1 when not, 2 when it was given wrongly.
pub fn run(cli: Cli, environment: Environment) -> ExitCode {
    let terminal = Terminal::new(cli.json, environment.no_color);
    let session = Session { environment, terminal };
    let outcome = match cli.command {
        Command::Serve(args) => local_node::serve(args, &session.environment),
        // Neither may start a thread before it is confined.
        Command::ServingProcess => run_serving_process().map_err(failed),
        Command::CheckProcess => run_check_process().map_err(failed),
        Command::WithParent(args) => cluster::become_child(args),
        command => match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime.block_on(dispatch(&session, command)),
            Err(error) => Err(CliError::Failed(format!("cannot start threads: {error}"))),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal.error(error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> CliError {
    CliError::Failed(error.to_string())
}

async fn dispatch(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(_)
        | Command::ServingProcess
        | Command::CheckProcess
        | Command::WithParent(_) => {
            Err(CliError::Failed("this command makes its own runtime".to_owned()))
        }
        Command::Dev(args) => dev::run(session, args).await,
        Command::Demo(args) => demo::run(session, args).await,
        Command::Init(args) => init::run(session, &args),
        Command::Deploy(args) => deploy::run(session, args).await,
        Command::Delete(args) => delete::run(session, args).await,
        Command::Tail(args) => tail::run(session, args).await,
        Command::Versions(VersionsCommand::List(args)) => versions::versions(session, args).await,
        Command::Deployments(DeploymentsCommand::List(args)) => {
            versions::deployments(session, args).await
        }
        Command::Kv(command) => kv::run(session, command).await,
        Command::Certificates(command) => certificates::run(session, command).await,
        Command::Regions(command) => regions::run(session, command).await,
        Command::Rules(command) => rules::run(session, command).await,
        Command::Secret(command) => secret::run(session, command).await,
        Command::Context(command) => context::run(session, command).await,
        Command::Export(args) => {
            let missing = match args.leave_out_missing {
                true => MissingValue::LeaveOut,
                false => MissingValue::Refuse,
            };
            archive::run(session, archive::Direction::Export(missing), args.archive).await
        }
        Command::Import(args) => archive::run(session, archive::Direction::Import, args).await,
        Command::Cluster(command) => cluster::run(session, command).await,
        Command::Nodes => nodes::run(session).await,
        Command::Pools(project) => pools::run(session, &project).await,
        Command::Whoami => whoami::run(session).await,
    }
}
