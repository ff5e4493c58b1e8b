//! Where frames begin in the bytes of a WebSocket (RFC 6455, 5.2). What they say is not looked at.

/// Bytes of the longest head: two, eight of the length, and four of the mask.
const HEAD_BYTES_MAX: usize = 14;

/// The opcode of a close.
const CLOSE: u8 = 8;

/// How far the bytes of one direction have come.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The head of the frame that has begun, as far as it has come.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// Bytes of a payload that are to come.
    payload_left: u64,
    is_closed: bool,
}

impl Frames {
    /// Whether the last frame has come whole, and nothing of another.
    pub(super) fn are_whole(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0
    }

    /// Whether a close has begun: it is the last frame.
    pub(super) fn are_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes all of these bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.take_one(bytes)..];
        }
    }

    /// Takes what belongs to one frame, and gives its count.
    pub(super) fn take_one(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.payload_left == 0 {
            while self.head_bytes < self.head_length() {
                let Some(byte) = bytes.get(taken) else { return taken };
                self.head[self.head_bytes] = *byte;
                self.head_bytes += 1;
                taken += 1;
            }
            self.payload_left = self.payload_length();
            self.is_closed |= self.head[0] & 0x0f == CLOSE;
            self.head_bytes = 0;
        }
        let rest = bytes.len() - taken;
        let payload = usize::try_from(self.payload_left).map_or(rest, |left| left.min(rest));
        self.payload_left -= payload as u64;
        taken + payload
    }

    /// Bytes of the head, as far as what has come of it says.
    fn head_length(&self) -> usize {
        if self.head_bytes < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    /// Bytes of the payload, as a whole head says.
    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    fn framed(mut frame: Frame, mask: Option<[u8; 4]>) -> Vec<u8> {
        frame.header_mut().mask = mask;
        let mut bytes = Vec::new();
        frame.format(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn frames_of_all_lengths_are_told_apart_however_they_are_cut() {
        for mask in [None, Some([1, 2, 3, 4])] {
            for length in [0, 1, 125, 126, 65_535, 65_536] {
                let data = Frame::message(vec![0x88; length], OpCode::Data(Data::Binary), true);
                let one = framed(data, mask);
                let both = [one.clone(), framed(Frame::close(None), mask)].concat();
                for cut in [1, 2, 3, 7, 4_096, both.len()] {
                    let mut frames = Frames::default();
                    let (mut passed, mut ends) = (0, Vec::new());
                    while passed < both.len() {
                        let end = both.len().min((passed / cut + 1) * cut);
                        passed += frames.take_one(&both[passed..end]);
                        if frames.are_whole() {
                            ends.push(passed);
                        }
                        assert!(!frames.are_closed() || passed > one.len());
                    }
                    assert_eq!(ends, [one.len(), both.len()], "{length} {mask:?} {cut}");
                    assert!(frames.are_closed());
                }
                let mut frames = Frames::default();
                frames.take(&both);
                assert!(frames.are_whole() && frames.are_closed());
            }
        }
    }
}
