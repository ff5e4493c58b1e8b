//! Reads HTTP/1.1 responses from bytes as they come: just enough of RFC 9112 for servers that we
//! start ourselves (a status, a `content-length` or chunked body), and nothing beyond.

/// The longest head or chunk line taken before the response counts as malformed.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are no HTTP/1.1 response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body_bytes: u64,
    /// The body, when the parser keeps bodies.
    pub(crate) body: Vec<u8>,
}

/// What becomes of a body's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bodies {
    Count,
    Keep,
}

enum State {
    Head,
    Fixed(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// Reads one response after another from a connection's bytes.
pub(crate) struct Parser {
    state: State,
    bodies: Bodies,
    /// The beginning of a head or line whose end has not arrived.
    partial: Vec<u8>,
    status: u16,
    body_bytes: u64,
    body: Vec<u8>,
}

impl Parser {
    pub(crate) fn new(bodies: Bodies) -> Self {
        Self {
            state: State::Head,
            bodies,
            partial: Vec::new(),
            status: 0,
            body_bytes: 0,
            body: Vec::new(),
        }
    }

    /// Takes the next bytes; answers the response that they complete. Bytes after a response are
    /// malformed, for no request is sent before its predecessor's response.
    pub(crate) fn feed(&mut self, mut input: &[u8]) -> Result<Option<Response>, Malformed> {
        loop {
            let complete = match self.state {
                State::Head => match self.take_through(&mut input, b"\r\n\r\n")? {
                    Some(head) => self.start_body(&head)?,
                    None => return Ok(None),
                },
                State::Fixed(left) => {
                    let left = left - self.take_body(&mut input, left);
                    self.state = State::Fixed(left);
                    left == 0
                }
                State::ChunkSize => match self.take_through(&mut input, b"\r\n")? {
                    Some(line) => {
                        let size = chunk_size(&line)?;
                        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                        false
                    }
                    None => return Ok(None),
                },
                State::Chunk(left) => {
                    let left = left - self.take_body(&mut input, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    false
                }
                State::ChunkEnd => match self.take_through(&mut input, b"\r\n")? {
                    Some(_) => {
                        self.state = State::ChunkSize;
                        false
                    }
                    None => return Ok(None),
                },
                State::Trailer => match self.take_through(&mut input, b"\r\n")? {
                    Some(line) => line.len() == 2,
                    None => return Ok(None),
                },
            };
            if complete {
                return if input.is_empty() {
                    Ok(Some(self.finish()))
                } else {
                    Err(Malformed("bytes follow the response"))
                };
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    fn finish(&mut self) -> Response {
        self.state = State::Head;
        Response {
            status: self.status,
            body_bytes: std::mem::take(&mut self.body_bytes),
            body: std::mem::take(&mut self.body),
        }
    }

    /// Reads the head; true when the response has no body.
    fn start_body(&mut self, head: &[u8]) -> Result<bool, Malformed> {
        let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        self.status = status
            .and_then(|digits| digits.parse().ok())
            .filter(|_| head.starts_with(b"HTTP/1."))
            .ok_or(Malformed("no status line"))?;
        if let Some(length) = header(head, b"content-length") {
            let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            let length = length.ok_or(Malformed("content-length is no number"))?;
            self.state = State::Fixed(length);
            Ok(length == 0)
        } else if header(head, b"transfer-encoding").is_some() {
            self.state = State::ChunkSize;
            Ok(false)
        } else {
            Ok(true)
        }
    }

    fn take_body(&mut self, input: &mut &[u8], left: u64) -> u64 {
        let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (body, rest) = input.split_at(taken);
        if self.bodies == Bodies::Keep {
            self.body.extend_from_slice(body);
        }
        *input = rest;
        self.body_bytes += taken as u64;
        taken as u64
    }

    /// Takes the bytes up to and with `end`, or keeps them until more have arrived.
    fn take_through<'a>(
        &mut self,
        input: &mut &'a [u8],
        end: &[u8],
    ) -> Result<Option<std::borrow::Cow<'a, [u8]>>, Malformed> {
        if self.partial.is_empty()
            && let Some(at) = find(input, end)
        {
            let (line, rest) = input.split_at(at + end.len());
            *input = rest;
            return Ok(Some(line.into()));
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(input);
        match find(&self.partial, end) {
            Some(at) => {
                let mut line = std::mem::take(&mut self.partial);
                line.truncate(at + end.len());
                *input = &input[line.len() - before..];
                Ok(Some(line.into()))
            }
            None if self.partial.len() > LINE_BYTES_MAX => Err(Malformed("a line is too long")),
            None => {
                *input = &[];
                Ok(None)
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed("chunk size is no number"))?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed("chunk size is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wire: &str, expected: Result<(u16, &str), &'static str>) {
        for step in [1, 2, 3, 7, wire.len()] {
            let mut parser = Parser::new(Bodies::Keep);
            let mut result = Ok(None);
            for piece in wire.as_bytes().chunks(step) {
                result = parser.feed(piece);
                if result.is_err() {
                    break;
                }
            }
            let seen = result.map(|response| response.expect("the response is complete"));
            let expected = expected.map_err(Malformed).map(|(status, body)| Response {
                status,
                body_bytes: body.len() as u64,
                body: body.into(),
            });
            assert_eq!(seen, expected, "in pieces of {step}: {wire:?}");
        }
    }

    #[test]
    fn responses_are_read_in_pieces_of_any_size() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Ok((200, "hello")));
        check("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Ok((404, "")));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, "")));
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA;x\r\n, world!!!\r\n0\r\n\r\n",
            Ok((200, "hello, world!!!")),
        );
        check("SSH-2.0-OpenSSH\r\n\r\n", Err("no status line"));
        check("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Err("content-length is no number"));
    }

    #[test]
    fn a_parser_reads_one_response_after_another() {
        let mut parser = Parser::new(Bodies::Count);
        for _ in 0..3 {
            let response = parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            assert_eq!(response.map(|response| response.body_bytes), Some(2));
        }
    }
}
