//! Watches what an HTTP/2 client sends for frames that make work and bring nothing: pings, settings, priorities,
//! windows, resets. The protocol allows any number of each, and an answer to most of them; no client needs many.
//!
//! A connection has a budget of such frames. It grows with time, with requests and with what is sent in
//! response, so that whoever uses the connection never notices it.

use crate::options::{H2_FUTILE_FRAMES_MAX, H2_RESET_COST};

/// What every connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head.
const HEAD_BYTES: usize = 9;
/// Frames that are granted for a request.
const PER_REQUEST: u32 = 2;
/// Bytes of response for which one frame is granted: clients that read must say so.
const BYTES_PER_FRAME: usize = 512;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;

/// The client has sent too many frames that bring nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client floods the connection with frames that bring nothing")]
pub(crate) struct Flood;

/// Follows the frames of one connection, of which it needs the heads alone.
#[derive(Debug)]
pub(crate) struct FrameWatch {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    budget: u32,
    /// Bytes written for which nothing has been granted.
    written: usize,
}

impl FrameWatch {
    pub(crate) fn new() -> Self {
        let budget = H2_FUTILE_FRAMES_MAX;
        Self { skip: PREFACE.len(), head: [0; HEAD_BYTES], head_len: 0, budget, written: 0 }
    }

    /// Looks at bytes as they come. After a flood nothing more can be looked at.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = (HEAD_BYTES - self.head_len).min(bytes.len());
            self.head[self.head_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            bytes = &bytes[taken..];
            if self.head_len < HEAD_BYTES {
                return Ok(());
            }
            self.head_len = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            self.judge(kind, flags)?;
        }
    }

    fn judge(&mut self, kind: u8, flags: u8) -> Result<(), Flood> {
        let cost = match kind {
            HEADERS => {
                self.grant(PER_REQUEST);
                0
            }
            // Padding may be all that is in it.
            DATA => u32::from((self.skip == 0 || flags & PADDED != 0) && flags & END_STREAM == 0),
            RST_STREAM => H2_RESET_COST,
            _ => 1,
        };
        self.budget = self.budget.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }

    /// Notes bytes that are sent.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        let frames = self.written / BYTES_PER_FRAME;
        if frames > 0 {
            self.written %= BYTES_PER_FRAME;
            self.grant(u32::try_from(frames).unwrap_or(u32::MAX));
        }
    }

    /// Lets the client send so many more.
    pub(crate) fn grant(&mut self, frames: u32) {
        self.budget = self.budget.saturating_add(frames).min(H2_FUTILE_FRAMES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let head = &(length as u32).to_be_bytes()[1..];
        [head, &[kind, flags, 0, 0, 0, 1], &vec![0xff; length]].concat()
    }

    /// How many of these frames are taken, up to `times`.
    fn taken(watch: &mut FrameWatch, frames: &[u8], times: usize) -> usize {
        (0..times).take_while(|_| watch.read(frames).is_ok()).count()
    }

    fn begun() -> FrameWatch {
        let mut watch = FrameWatch::new();
        watch.read(PREFACE).unwrap();
        watch
    }

    #[test]
    fn frames_that_bring_nothing_have_a_budget() {
        let most = H2_FUTILE_FRAMES_MAX as usize;
        for kind in [2, 4, PING, 7, WINDOW_UPDATE, 9, 0x10, 0xbe] {
            assert_eq!(taken(&mut begun(), &frame(kind, 0, 8), 2 * most), most, "{kind}");
        }
        assert_eq!(taken(&mut begun(), &frame(DATA, 0, 0), 2 * most), most);
        assert_eq!(taken(&mut begun(), &frame(DATA, PADDED, 9), 2 * most), most);
        let resets = most / H2_RESET_COST as usize;
        assert_eq!(taken(&mut begun(), &frame(RST_STREAM, 0, 4), most), resets);
    }

    #[test]
    fn whoever_uses_the_connection_never_notices_it() {
        let times = 4 * H2_FUTILE_FRAMES_MAX as usize;
        // An upload, which is pinged now and then.
        let upload = [frame(HEADERS, 4, 90), frame(DATA, 0, 16_384), frame(PING, 0, 8)].concat();
        assert_eq!(taken(&mut begun(), &upload, times), times);
        assert_eq!(taken(&mut begun(), &frame(DATA, END_STREAM, 0), times), times);
        // A download, whose client opens both windows for every part of it.
        let mut watch = begun();
        for _ in 0..times {
            watch.wrote(1_200);
            watch.read(&frame(WINDOW_UPDATE, 0, 4).repeat(2)).unwrap();
        }
        // Pings that are answered do not pay for themselves.
        let mut watch = begun();
        let pings = (0..times)
            .take_while(|_| {
                watch.wrote(17);
                watch.read(&frame(PING, 0, 8)).is_ok()
            })
            .count();
        assert!(pings < times / 2, "{pings}");
        // What time grants is granted up to the most.
        let mut watch = begun();
        let most = H2_FUTILE_FRAMES_MAX as usize;
        assert_eq!(taken(&mut watch, &frame(PING, 0, 8), most), most);
        watch.grant(5);
        assert_eq!(taken(&mut watch, &frame(PING, 0, 8), most), 5);
    }

    proptest::proptest! {
        /// Frames are found wherever reads cut them.
        #[test]
        fn reads_may_cut_anywhere(lengths in proptest::collection::vec((0_u8..10, 0_usize..40), 1..20), part in 1_usize..30) {
            let mut bytes = PREFACE.to_vec();
            for (kind, length) in lengths {
                bytes.extend(frame(kind, 0, length));
            }
            let (mut whole, mut cut) = (FrameWatch::new(), FrameWatch::new());
            whole.read(&bytes).unwrap();
            for part in bytes.chunks(part) {
                cut.read(part).unwrap();
            }
            proptest::prop_assert_eq!((whole.budget, whole.skip), (cut.budget, cut.skip));
        }
    }
}
