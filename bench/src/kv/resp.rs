//! Just enough of Redis's protocol, RESP 2: a command at a time, and the kinds of replies that `GET` and `SET` have.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ_BYTES: usize = 64 * 1024;

/// Sends a command; answers the length of the value in its reply, 0 for `OK`.
pub(super) async fn exchange(stream: &mut TcpStream, message: &[u8]) -> Result<usize, String> {
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(message).await.map_err(text)?;
    let mut reply = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut buffer).await.map_err(text)?;
        if read == 0 {
            return Err("the connection was closed".to_owned());
        }
        reply.extend_from_slice(&buffer[..read]);
        if let Some(length) = parse(&reply)? {
            return Ok(length);
        }
    }
}

/// The length of a complete reply's value.
fn parse(reply: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = reply.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(&reply[..end]);
    match line.split_at_checked(1) {
        Some(("+", _)) => Ok(Some(0)),
        Some(("$", "-1")) => Err("there is no such key".to_owned()),
        Some(("$", length)) => {
            let length: usize = length.parse().map_err(|_| format!("no length: {line}"))?;
            Ok((reply.len() >= end + 2 + length + 2).then_some(length))
        }
        _ => Err(line.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &[u8], expected: Result<Option<usize>, &str>) {
        assert_eq!(parse(reply), expected.map_err(str::to_owned), "{reply:?}");
    }

    #[test]
    fn replies_are_read_when_they_are_whole() {
        check(b"+OK\r\n", Ok(Some(0)));
        check(b"$3\r\nabc\r\n", Ok(Some(3)));
        check(b"$3\r\nabc\r", Ok(None));
        check(b"$", Ok(None));
        check(b"$-1\r\n", Err("there is no such key"));
        check(b"-ERR no\r\n", Err("-ERR no"));
    }
}
