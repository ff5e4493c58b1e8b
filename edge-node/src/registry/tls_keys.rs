//! Keys of the front door that come from the node's key: all nodes of a cluster have that, so each reads the
//! session tickets that another has made. Who gets them cannot tell the node's key from them.

use atoll_router::{QuicKeys, TICKET_NAME_BYTES, TICKET_SECRET_BYTES, TicketKey};

use super::Registry;

/// How long tickets are made with one key, in seconds. They are read for as long again.
pub(crate) const TICKET_WINDOW_S: u32 = 6 * 3600;

impl Registry {
    /// The keys of session tickets at a moment, in seconds since the Unix epoch: of its window, of the one
    /// before, whose tickets are still read, and of the one after, which a node with a fast clock may be in.
    pub(crate) fn ticket_keys(&self, now_s: u64) -> Vec<TicketKey> {
        let window = now_s / u64::from(TICKET_WINDOW_S);
        (window.saturating_sub(1)..=window + 1).map(|window| self.ticket_key(window)).collect()
    }

    fn ticket_key(&self, window: u64) -> TicketKey {
        let at = window.to_be_bytes();
        let key = &self.inner.key;
        TicketKey {
            from_s: window * u64::from(TICKET_WINDOW_S),
            window_s: TICKET_WINDOW_S,
            name: key.derive::<TICKET_NAME_BYTES>(&[b"ticket name", &at]),
            secret: key.derive::<TICKET_SECRET_BYTES>(&[b"ticket secret", &at]),
        }
    }

    /// The keys of QUIC. They are the same after a restart, so that clients learn soon that their connections
    /// are gone, and unlike those of any other node, which knows nothing of this one's connections.
    pub(crate) fn quic_keys(&self, node: &str) -> QuicKeys {
        let (key, node) = (&self.inner.key, node.as_bytes());
        QuicKeys {
            cids: key.derive(&[b"quic connection ids", node]),
            resets: key.derive(&[b"quic resets", node]),
            tokens: key.derive(&[b"quic tokens", node]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_one_key_have_the_same_ticket_keys_and_others_do_not() {
        let open = |key: Option<&[u8]>| {
            let dir = tempfile::tempdir().unwrap();
            if let Some(key) = key {
                std::fs::write(dir.path().join("node.key"), key).unwrap();
            }
            Registry::open(dir.path()).unwrap()
        };
        let (one, two, other) = (open(Some(&[7; 32])), open(Some(&[7; 32])), open(None));
        let window_s = u64::from(TICKET_WINDOW_S);
        let at = 1_000 * window_s + 5;
        assert_eq!(one.ticket_keys(at), two.ticket_keys(at));
        assert_ne!(one.ticket_keys(at), other.ticket_keys(at));
        let (keys, later) = (one.ticket_keys(at), one.ticket_keys(at + window_s));
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[1..], later[..2], "each window follows the one before");
        assert_eq!(keys[1].from_s, 1_000 * window_s);
        assert_ne!(keys[0].secret, keys[1].secret);
        assert_ne!(one.quic_keys("a").resets, one.quic_keys("b").resets);
        assert_eq!(one.quic_keys("a").resets, two.quic_keys("a").resets);
    }
}
