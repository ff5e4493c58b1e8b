//! Reads wrangler's project files, unmodified: wrangler.json, wrangler.jsonc and wrangler.toml.
//! Understands the keys that a node can honour, and refuses by name those that it cannot.

mod bindings;
mod config;
mod diagnostic;
mod document;
mod dotenv;
mod error;
mod fields;
mod keys;
mod locate;
mod pools;
mod regions;
mod rules;
#[cfg(test)]
mod tests;

pub use bindings::{FileKind, ProjectBinding};
pub use config::{
    BuildCommand, BundleSettings, LATEST_COMPATIBILITY_DATE, ModuleRule, Project, RouteEntry,
    RuleKind,
};
pub use diagnostic::Diagnostic;
pub use dotenv::{local_variables, parse_dotenv};
pub use error::ProjectError;
pub use locate::find_config;
pub use rules::ProjectRules;
