//! Lets Chrome DevTools and other clients of the DevTools Protocol debug live instances, in development.
//! Never part of a node that serves the public: whoever reaches the address runs code in the workers.

mod debuggees;
mod server;
mod session;

pub(crate) use debuggees::serving;
pub use debuggees::{Debuggees, follow};
pub use server::router;
