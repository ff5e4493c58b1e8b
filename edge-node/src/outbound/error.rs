//! Why a request to the internet failed, in words for the worker's author.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

/// A request got no response.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// The URL is of no kind that can be fetched.
    #[error("cannot fetch {0:?}: the url needs http or https and a host")]
    Url(String),
    /// A host such as `0x7f.1`, which some resolvers take for an address.
    #[error("the host {0:?} is not a name and not a plain address: write the address in full")]
    Host(String),
    /// Every address of the host is set apart.
    #[error(
        "address {address} of host {host} is not public; \
         the node's config `outbound.allow` can permit it"
    )]
    NotPublic {
        /// The host of the URL.
        host: String,
        /// The address that was refused.
        address: IpAddr,
    },
    /// The name has no address, or the name servers failed.
    #[error("cannot resolve the host {host}: {reason}")]
    Resolve {
        /// The host of the URL.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The name servers did not answer in time.
    #[error("cannot resolve the host {host} within {} s", limit.as_secs_f32())]
    ResolveTimeout {
        /// The host of the URL.
        host: String,
        /// The limit.
        limit: Duration,
    },
    /// No address accepted a connection.
    #[error("cannot connect to {host} ({address}): {reason}")]
    Connect {
        /// The host of the URL.
        host: String,
        /// The last address tried.
        address: IpAddr,
        /// What the system said.
        reason: String,
    },
    /// The response's head did not come in time.
    #[error("{host} sent no response within {} s", limit.as_secs_f32())]
    ResponseTimeout {
        /// The host of the URL.
        host: String,
        /// The limit.
        limit: Duration,
    },
    /// TLS or HTTP failed.
    #[error("the request to {host} failed: {reason}")]
    Request {
        /// The host of the URL.
        host: String,
        /// The innermost cause.
        reason: String,
    },
}

impl OutboundError {
    /// Finds our own error in the chain that the HTTP client wraps it in, or tells the innermost
    /// cause, which is the one that says something.
    pub(super) fn from_client(host: &str, error: &(dyn Error + 'static)) -> Self {
        let mut cause = error;
        loop {
            if let Some(own) = cause.downcast_ref::<Self>() {
                return own.clone();
            }
            match cause.source() {
                Some(source) => cause = source,
                None => return Self::Request { host: host.to_owned(), reason: cause.to_string() },
            }
        }
    }
}
