//! What a node tells another of a request that it passes on: in one header, over a connection on which both have
//! shown certificates of the cluster. A client's own header of that name never gets this far.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use atoll_router::regions::RegionPolicy;
use atoll_router::{ClientCertificate, Place};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::registry::{VersionId, WorkerRef};

/// Where nodes take requests that others pass on.
pub(in super::super) const FORWARD_PATH: &str = "/forward";

/// What is told of the request.
const CARRIED: HeaderName = HeaderName::from_static("atoll-carried");

/// On a response: the request was not begun with, for this reason.
pub(in super::super) const REFUSED: HeaderName = HeaderName::from_static("atoll-refused");

/// How often a request is passed on. The node that gets it serves or refuses it.
pub(in super::super) const HOPS_MAX: u8 = 1;

/// What is told of a request that was passed on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Carried {
    /// How often it was passed on, this time included.
    pub(in super::super) hops: u8,
    /// Its id, which the client is told.
    pub(in super::super) id: Arc<str>,
    /// The worker.
    pub(in super::super) worker: WorkerRef,
    /// What the deployment or a rule decided for.
    pub(in super::super) version: VersionId,
    /// By which it is passed on.
    pub(in super::super) policy: RegionPolicy,
    /// Its address, as the worker sees it.
    pub(in super::super) url: Arc<str>,
    /// The client's address.
    pub(in super::super) ip: IpAddr,
    /// Whether the client uses TLS, if only to a proxy.
    pub(in super::super) https: bool,
    /// The protocol that the client speaks, as `request.cf.httpProtocol` has it.
    pub(in super::super) protocol: Cow<'static, str>,
    /// The version and cipher of the client's TLS.
    pub(in super::super) tls: Option<(Cow<'static, str>, Cow<'static, str>)>,
    /// The client's certificate.
    pub(in super::super) certificate: Option<Arc<ClientCertificate>>,
    /// What was known of the client where it came to.
    pub(in super::super) from: Arc<FromElsewhere>,
}

/// Which request is passed on, as far as its client has nothing to do with that.
pub(in super::super) struct Errand<'a> {
    pub(in super::super) id: &'a Arc<str>,
    pub(in super::super) worker: &'a WorkerRef,
    pub(in super::super) version: &'a VersionId,
    pub(in super::super) url: &'a Arc<str>,
    pub(in super::super) policy: RegionPolicy,
}

/// What the node that the client came to knows of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct FromElsewhere {
    /// Where the client is.
    pub(in super::super) place: Place,
    /// What the node says of its own place.
    pub(in super::super) colo: Box<str>,
    /// What rules decided, as JSON.
    pub(in super::super) flags: Option<String>,
}

impl Carried {
    /// Puts it into a request's headers, in place of what a client may have written there.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let json = serde_json::to_vec(self).expect("it is plain data");
        let text = URL_SAFE_NO_PAD.encode(json);
        let value = HeaderValue::from_str(&text).expect("base64 is header text");
        headers.insert(CARRIED, value);
    }

    /// Takes it out of a request from another node.
    pub(in super::super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(CARRIED)?;
        let json = URL_SAFE_NO_PAD.decode(value.as_bytes()).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{AccountId, WorkerName};

    #[test]
    fn it_arrives_as_it_was_and_a_clients_own_does_not() {
        let place = Place { city: Some("Köln\u{7f}".into()), asn: Some(7), ..Place::default() };
        let carried = Carried {
            hops: 1,
            id: "id".into(),
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") },
            version: VersionId::new("v"),
            policy: RegionPolicy { pin: Some("eu".into()), ..RegionPolicy::default() },
            url: "https://a.b/ü?x".into(),
            ip: "2001:db8::1".parse().unwrap(),
            https: true,
            protocol: "HTTP/3".into(),
            tls: Some(("TLSv1.3".into(), "AEAD-AES128-GCM-SHA256".into())),
            certificate: Some(Arc::new(ClientCertificate::none())),
            from: Arc::new(FromElsewhere { place, colo: "us".into(), flags: Some("{}".into()) }),
        };
        let mut headers = HeaderMap::new();
        headers.append(CARRIED, HeaderValue::from_static("forged"));
        headers.append(CARRIED, HeaderValue::from_static("twice"));
        carried.write(&mut headers);
        assert_eq!(headers.get_all(CARRIED).iter().count(), 1);
        let taken = Carried::take(&mut headers).unwrap();
        assert_eq!(format!("{taken:?}"), format!("{carried:?}"));
        assert!(headers.is_empty());
        headers.insert(CARRIED, HeaderValue::from_static("forged"));
        assert!(Carried::take(&mut headers).is_none());
    }
}
