//! The registry: what is deployed where, stored in SQLite and read as whole snapshots.

mod model;

pub use model::*;
