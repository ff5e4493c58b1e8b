//! What serving processes need to send each other calls: sockets on the loopback address, a certificate that they all
//! show, of an authority that no other node knows, and word of which of them run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use atoll_router::{AUTHORITY_SEED_BYTES, PeerAuthority};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::renew;
use crate::dispatch::{SIBLING_NAME, Siblings as Known};
use crate::node::NodeError;
use crate::node::sockets::bind;

/// The serving processes as each other's siblings.
pub(super) struct Siblings {
    /// Where each listens; none where there is one alone.
    addresses: Vec<SocketAddr>,
    known: watch::Sender<Option<Known>>,
    renewing: Option<JoinHandle<()>>,
}

impl Drop for Siblings {
    fn drop(&mut self) {
        self.renewing.iter().for_each(JoinHandle::abort);
    }
}

impl Siblings {
    /// Binds sockets for processes of so many threads each. Needs a tokio runtime.
    ///
    /// # Errors
    /// When no port can be had, or no certificate can be made.
    pub(super) async fn start(
        shares: &[usize],
    ) -> Result<(Self, Vec<Vec<TcpListener>>), NodeError> {
        let known = watch::Sender::new(None);
        if shares.len() < 2 {
            let none = shares.iter().map(|_| Vec::new()).collect();
            return Ok((Self { addresses: Vec::new(), known, renewing: None }, none));
        }
        let (mut all, mut addresses) = (Vec::new(), Vec::new());
        for threads in shares {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (sockets, address) = bind(any, *threads, Vec::new()).await?;
            all.push(sockets);
            addresses.push(address);
        }
        let authority = PeerAuthority::from_seed(&rand::random::<[u8; AUTHORITY_SEED_BYTES]>())?;
        let credentials = authority.issue(SIBLING_NAME)?;
        known.send_replace(Some(Known { credentials, running: vec![None; shares.len()] }));
        let renewed = known.clone();
        let renewing = renew(authority, SIBLING_NAME.to_owned(), move |credentials| {
            renewed.send_modify(|known| {
                known.iter_mut().for_each(|known| known.credentials = credentials.clone());
            });
            Ok(())
        });
        Ok((Self { addresses, known, renewing: Some(tokio::spawn(renewing)) }, all))
    }

    /// What a process is told at its start; none where it has no siblings.
    pub(super) fn known(&self) -> Option<Known> {
        self.known.borrow().clone()
    }

    /// Follows what processes are told later.
    pub(super) fn follow(&self) -> watch::Receiver<Option<Known>> {
        self.known.subscribe()
    }

    /// The process of this place takes calls.
    pub(super) fn runs(&self, place: usize) {
        self.set(place, self.addresses.get(place).copied());
    }

    /// The process of this place has ended, or is about to.
    pub(super) fn ended(&self, place: usize) {
        self.set(place, None);
    }

    fn set(&self, place: usize, address: Option<SocketAddr>) {
        self.known.send_modify(|known| {
            if let Some(running) = known.as_mut().and_then(|known| known.running.get_mut(place)) {
                *running = address;
            }
        });
    }
}
