//! TLS material on its way between processes.

use std::path::Path;
use std::sync::Arc;

use atoll_router::{
    Certificates, Challenge, ClientMode, ClientPolicy, TicketKey, TlsError, TlsMaterial,
    parse_certificates, parse_pem,
};
use serde::{Deserialize, Serialize};

use crate::registry::Pem;

/// Everything that TLS serves by. It holds private keys.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TlsBytes {
    /// Certificates with their keys, as PEM; of two for a name the later one serves.
    pub(crate) certificates: Vec<Pem>,
    /// The place of the certificate that answers unknown names.
    pub(crate) fallback: usize,
    /// Who is asked for a certificate.
    pub(crate) clients: Vec<ClientBytes>,
    /// The keys of session tickets.
    pub(crate) tickets: Vec<TicketKey>,
    /// What an ACME authority may ask now.
    pub(crate) challenges: Vec<Challenge>,
}

/// Who is asked for a certificate.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientBytes {
    pub(crate) hosts: Vec<String>,
    pub(crate) required: bool,
    /// The authorities, as PEM.
    pub(crate) authorities: Vec<u8>,
}

impl TlsBytes {
    /// What the router takes. Whoever read the bytes has looked at them: what is of no use is an error.
    pub(crate) fn material(&self) -> Result<TlsMaterial, TlsError> {
        let place = Path::new("memory");
        let mut certificates = Certificates::default();
        for (at, (chain, key)) in self.certificates.iter().enumerate() {
            let certificate = parse_pem(chain, key, place, place)?;
            certificates.add(Arc::clone(&certificate));
            if at == self.fallback {
                certificates.set_fallback(certificate);
            }
        }
        let clients = self.clients.iter().map(ClientBytes::policy).collect::<Result<_, _>>()?;
        let (tickets, challenges) = (self.tickets.clone(), self.challenges.clone());
        Ok(TlsMaterial { certificates, clients, tickets, challenges })
    }
}

impl ClientBytes {
    pub(super) fn policy(&self) -> Result<ClientPolicy, TlsError> {
        Ok(ClientPolicy {
            hosts: self.hosts.clone(),
            mode: if self.required { ClientMode::Required } else { ClientMode::Optional },
            authorities: parse_certificates(&self.authorities, Path::new("memory"))?,
        })
    }
}
