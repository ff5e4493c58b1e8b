//! What TLS serves by: read where files and keys are, handed as bytes to where connections come, and read
//! again whenever a file, an upload or the time asks for it.

mod bytes;
mod follow;
mod source;
mod status;

pub(crate) use bytes::TlsBytes;
pub(crate) use follow::{Reload, TlsFollower};
pub(crate) use source::TlsSource;
pub(crate) use status::show_certificates;
