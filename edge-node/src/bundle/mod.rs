//! Bundles a project's sources into uploadable modules.
