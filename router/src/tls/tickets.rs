//! Session tickets (RFC 5077, RFC 8446 section 4.6.1) under keys that come from outside and are replaced as
//! time goes on, so that whoever has the same keys can resume a session: another thread, process or node.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

use super::client_policy::PolicyId;

/// What tells a key from others in a ticket.
pub const TICKET_NAME_BYTES: usize = 16;
/// A key's secret.
pub const TICKET_SECRET_BYTES: usize = 32;

/// Where the ciphertext begins: after the key's name and the nonce.
const CIPHERTEXT_AT: usize = TICKET_NAME_BYTES + NONCE_LEN;

/// The key of tickets that are made within one window of time. Tickets of the windows before and after are
/// read as well, as far as their keys are given: nodes' clocks differ.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// When the window begins, in seconds since the Unix epoch.
    pub from_s: u64,
    /// How long it is, in seconds.
    pub window_s: u32,
    /// The key's name, which tickets show.
    pub name: [u8; TICKET_NAME_BYTES],
    /// The secret.
    pub secret: [u8; TICKET_SECRET_BYTES],
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("from_s", &self.from_s).finish_non_exhaustive()
    }
}

struct Key {
    from_s: u64,
    name: [u8; TICKET_NAME_BYTES],
    key: RandomizedNonceKey,
}

/// Makes and reads tickets for one way of asking clients: a ticket of another way is not read.
pub(super) struct Ticketer {
    keys: Vec<Key>,
    window_s: u32,
    policy: PolicyId,
}

impl Ticketer {
    pub(super) fn new(keys: &[TicketKey], policy: PolicyId) -> Self {
        let window_s = keys.iter().map(|key| key.window_s).min().unwrap_or(0);
        let keys = keys.iter().map(|key| Key {
            from_s: key.from_s,
            name: key.name,
            key: RandomizedNonceKey::new(&AES_256_GCM, &key.secret)
                .expect("the secret has the length of a key"),
        });
        Self { keys: keys.collect(), window_s, policy }
    }

    /// The key of the window that holds this moment, or the one that comes closest.
    fn current(&self, now_s: u64) -> Option<&Key> {
        let begun = self.keys.iter().filter(|key| key.from_s <= now_s).max_by_key(|key| key.from_s);
        begun.or_else(|| self.keys.iter().min_by_key(|key| key.from_s))
    }

    fn encrypt_at(&self, now_s: u64, plain: &[u8]) -> Option<Vec<u8>> {
        let Key { name, key, .. } = self.current(now_s)?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(self.aad(), &mut sealed).ok()?;
        Some([name.as_slice(), nonce.as_ref(), &sealed].concat())
    }

    fn aad(&self) -> Aad<[u8; 8]> {
        Aad::from(self.policy.0.to_be_bytes())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.window_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.encrypt_at(since_epoch.as_secs(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(CIPHERTEXT_AT)?;
        let (name, nonce) = head.split_at(TICKET_NAME_BYTES);
        let key = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = sealed.to_vec();
        let plain = key.key.open_in_place(nonce, self.aad(), &mut buffer).ok()?.len();
        buffer.truncate(plain);
        Some(buffer)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_S: u32 = 100;
    const OPEN: PolicyId = PolicyId(0);

    fn keys(windows: std::ops::Range<u8>) -> Vec<TicketKey> {
        let key = |n: u8| TicketKey {
            from_s: u64::from(n) * u64::from(WINDOW_S),
            window_s: WINDOW_S,
            name: [n; TICKET_NAME_BYTES],
            secret: [n.wrapping_mul(31); TICKET_SECRET_BYTES],
        };
        windows.map(key).collect()
    }

    #[test]
    fn a_ticket_is_read_in_its_window_and_the_next() {
        let made = Ticketer::new(&keys(1..4), OPEN).encrypt_at(250, b"session").unwrap();
        for (windows, read) in
            [(0..3, true), (1..4, true), (2..5, true), (3..6, false), (0..2, false)]
        {
            let ticketer = Ticketer::new(&keys(windows.clone()), OPEN);
            assert_eq!(ticketer.decrypt(&made).is_some(), read, "{windows:?}");
        }
        let other = Ticketer::new(&keys(2..5), OPEN);
        assert_eq!(other.decrypt(&made).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_for_other_clients_or_a_damaged_one_is_not_read() {
        let ticketer = Ticketer::new(&keys(0..3), OPEN);
        let made = ticketer.encrypt_at(150, b"session").unwrap();
        assert!(Ticketer::new(&keys(0..3), PolicyId(1)).decrypt(&made).is_none());
        for cut in 0..made.len() {
            assert!(ticketer.decrypt(&made[..cut]).is_none(), "{cut}");
        }
        for at in 0..made.len() {
            let mut damaged = made.clone();
            damaged[at] ^= 1;
            assert!(ticketer.decrypt(&damaged).is_none(), "{at}");
        }
    }

    #[test]
    fn before_its_first_window_it_makes_tickets_all_the_same() {
        let ticketer = Ticketer::new(&keys(5..8), OPEN);
        let made = ticketer.encrypt_at(0, b"session").unwrap();
        assert_eq!(made[..TICKET_NAME_BYTES], [5; TICKET_NAME_BYTES]);
    }
}
