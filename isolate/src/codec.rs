//! What compresses and decompresses for the streams of the Compression Standard, a step at a time: a step takes and gives a
//! bounded number of bytes, however much a few bytes stand for. Between two steps JS runs, so that limits of time and
//! memory are looked at. <https://compression.spec.whatwg.org/>

use std::io;

use compression_codecs::brotli::params::EncoderParams;
use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::{
    BrotliDecoder, BrotliEncoder, DecodeV2, DeflateDecoder, DeflateEncoder, EncodeV2, GzipDecoder,
    GzipEncoder, ZlibDecoder, ZlibEncoder,
};

/// Bytes that are taken at once, a millisecond or two of compressing, and bytes that are given at once.
pub(crate) const STEP_BYTES_MAX: usize = 64 << 10;

/// What servers compress with on the way, and the window that goes with it, as a power of two.
const BROTLI_QUALITY: i32 = 6;
const BROTLI_WINDOW_LOG: i32 = 22;

/// The first byte of a Brotli stream that wants a window of up to a gigabyte, without its highest bit.
const BROTLI_LARGE_WINDOW: u8 = 0x11;

/// Whether a Brotli stream that begins with these bytes wants a window that RFC 7932 (9.1) does not have: the decoder would
/// give it one.
pub fn wants_large_brotli_window(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & 0x7f == BROTLI_LARGE_WINDOW)
}

/// A compressor or decompressor, and what it has still to do.
pub(crate) struct Codec {
    coder: Coder,
    input: Vec<u8>,
    /// How much of the input is done.
    taken: usize,
    /// No more input comes.
    is_ending: bool,
    /// The last byte of output was given.
    is_over: bool,
    /// Nothing was read yet, of what names its window in the first byte.
    has_window: bool,
}

enum Coder {
    Encoder(Box<dyn EncodeV2>),
    Decoder(Box<dyn DecodeV2>),
}

impl Codec {
    /// By the format's name; none when there is no such format.
    pub(crate) fn new(format: &str, is_decoder: bool) -> Option<Self> {
        let level = || Level::Default.into();
        let brotli = || {
            let params = EncoderParams::default().quality(Level::Precise(BROTLI_QUALITY));
            params.window_size(BROTLI_WINDOW_LOG)
        };
        let coder = match (format, is_decoder) {
            ("deflate", false) => Coder::Encoder(Box::new(ZlibEncoder::new(level()))),
            ("deflate", true) => Coder::Decoder(Box::new(ZlibDecoder::new())),
            ("deflate-raw", false) => Coder::Encoder(Box::new(DeflateEncoder::new(level()))),
            ("deflate-raw", true) => Coder::Decoder(Box::new(DeflateDecoder::new())),
            ("gzip", false) => Coder::Encoder(Box::new(GzipEncoder::new(level()))),
            ("gzip", true) => Coder::Decoder(Box::new(GzipDecoder::new())),
            ("brotli", false) => Coder::Encoder(Box::new(BrotliEncoder::new(brotli()))),
            ("brotli", true) => Coder::Decoder(Box::new(BrotliDecoder::new())),
            _ => return None,
        };
        let has_window = format == "brotli" && is_decoder;
        let (input, taken, is_ending, is_over) = (Vec::new(), 0, false, false);
        Some(Self { coder, input, taken, is_ending, is_over, has_window })
    }

    /// Takes some of the bytes, once what was taken before is done, and says how many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(STEP_BYTES_MAX)];
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.extend_from_slice(bytes);
        bytes.len()
    }

    /// No more bytes come.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
    }

    /// The next bytes that come of what was taken; none when it is done.
    ///
    /// # Errors
    /// When the input is not what it should be, has something after its end, or has ended too early.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut output = vec![0; STEP_BYTES_MAX];
        let mut buffer = WriteBuffer::new_initialized(&mut output);
        while buffer.written_len() == 0 && self.step(&mut buffer)? {}
        let length = buffer.written_len();
        output.truncate(length);
        output.shrink_to_fit();
        Ok(output)
    }

    /// One step; false when there is nothing to do before more is taken.
    fn step(&mut self, output: &mut WriteBuffer<'_>) -> io::Result<bool> {
        let mut input = PartialBuffer::new(&self.input[self.taken..]);
        let there = input.unwritten().len();
        if self.is_over {
            return if there == 0 {
                Ok(false)
            } else {
                Err(invalid("there is data after its end"))
            };
        }
        if there == 0 && !self.is_ending {
            // What was held back for want of room.
            return match &mut self.coder {
                Coder::Encoder(_) => Ok(false),
                Coder::Decoder(decoder) => decoder.flush(output).map(|_| false),
            };
        }
        if there == 0 {
            self.is_over = match &mut self.coder {
                Coder::Encoder(encoder) => encoder.finish(output)?,
                Coder::Decoder(decoder) => {
                    decoder.finish(output).map_err(|_| invalid("it ends too early"))?
                }
            };
        } else {
            if std::mem::take(&mut self.has_window) && wants_large_brotli_window(input.unwritten())
            {
                return Err(invalid("its window is too large"));
            }
            match &mut self.coder {
                Coder::Encoder(encoder) => encoder.encode(&mut input, output)?,
                Coder::Decoder(decoder) => self.is_over = decoder.decode(&mut input, output)?,
            }
            self.taken += input.written_len();
        }
        if input.written_len() == 0 && output.written_len() == 0 && !self.is_over {
            return Err(invalid("it does not go on"));
        }
        Ok(true)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the compressed data is not valid: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMATS: [&str; 4] = ["deflate", "deflate-raw", "gzip", "brotli"];

    /// All output for input that comes in pieces of this size.
    fn run(format: &str, is_decoder: bool, input: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut codec = Codec::new(format, is_decoder).unwrap();
        let mut output = Vec::new();
        let mut drain = |codec: &mut Codec| -> io::Result<()> {
            loop {
                let bytes = codec.read()?;
                assert!(bytes.len() <= STEP_BYTES_MAX);
                if bytes.is_empty() {
                    return Ok(());
                }
                output.extend(bytes);
            }
        };
        for mut piece in input.chunks(piece) {
            while !piece.is_empty() {
                piece = &piece[codec.write(piece)..];
                drain(&mut codec)?;
            }
        }
        codec.end();
        drain(&mut codec)?;
        Ok(output)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_was_compressed_comes_back(
            words in proptest::collection::vec(".{1,4}", 1..6),
            bytes in 0..300_000_usize,
            near in 0..9_usize,
            piece in 1..200_000_usize,
        ) {
            // Also sizes at which the output of a step is just full.
            let sizes = [bytes, STEP_BYTES_MAX * 2 - 4 + near];
            for (size, format) in sizes.into_iter().flat_map(|size| FORMATS.map(|f| (size, f))) {
                let text: Vec<u8> = words.concat().bytes().cycle().take(size).collect();
                let compressed = run(format, false, &text, piece).unwrap();
                prop_assert_eq!(&run(format, true, &compressed, piece).unwrap(), &text);
                let early = &compressed[..compressed.len() - 1];
                prop_assert!(run(format, true, early, piece).is_err(), "{} ends early", format);
                let late = [&compressed[..], b"x"].concat();
                prop_assert!(run(format, true, &late, piece).is_err(), "{} goes on", format);
            }
        }

        #[test]
        fn bytes_of_any_kind_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for format in FORMATS {
                let _ = run(format, true, &bytes, 7);
            }
        }
    }

    #[test]
    fn a_step_of_a_bomb_is_bounded() {
        let zeros = vec![0; 8 << 20];
        for format in FORMATS {
            let bomb = run(format, false, &zeros, usize::MAX).unwrap();
            assert!(bomb.len() < STEP_BYTES_MAX, "{format} takes it at once");
            let mut codec = Codec::new(format, true).unwrap();
            codec.write(&bomb);
            assert_eq!(codec.read().unwrap().len(), STEP_BYTES_MAX);
        }
    }

    #[test]
    fn windows_of_a_gigabyte_are_refused() {
        let large = [BROTLI_LARGE_WINDOW, 30, 0, 0];
        assert!(run("brotli", true, &large, 4).unwrap_err().to_string().contains("window"));
    }

    #[test]
    fn there_are_no_other_formats() {
        assert!(Codec::new("zip", true).is_none());
    }
}
