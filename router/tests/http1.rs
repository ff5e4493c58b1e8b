//! HTTP/1.1 over real sockets: pipelining, limits, slow clients, clients that leave, upgrades.

mod support;

use std::time::Duration;

use atoll_router::{HEADERS_MAX, ServeOptions};
use support::{hasty, local, read_to_close, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[test]
fn pipelined_requests_are_answered_in_order() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let requests = "GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n\
                        GET /c HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        socket.write_all(requests.as_bytes()).await.unwrap();
        let answer = read_to_close(&mut socket).await;
        let at = |text: &str| answer.find(text).unwrap();
        assert!(at("hello /a") < at("hello /b") && at("hello /b") < at("hello /c"));
        assert_eq!(answer.to_lowercase().matches("\r\ndate: ").count(), 3, "{answer}");
    });
}

#[test]
fn limits_have_their_own_answers() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let check = async |request: String, status: &str, words: &str| {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let answer = read_to_close(&mut socket).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(answer.contains(words), "{answer}");
        };
        let tail = "host: a\r\nconnection: close\r\n\r\n";
        let url = "x".repeat(20_000);
        check(format!("GET /{url} HTTP/1.1\r\n{tail}"), "414", "id: id-1").await;
        // 64 KiB and more is refused by hyper before it is a URL at all.
        let url = "x".repeat(70_000);
        check(format!("GET /{url} HTTP/1.1\r\n{tail}"), "414", "").await;
        let header = format!("x: {}\r\n", "y".repeat(200_000));
        check(format!("GET / HTTP/1.1\r\n{header}{tail}"), "431", "id: id-1").await;
        // More than twice the limit is refused by hyper before it is a head at all.
        let header = format!("x: {}\r\n", "y".repeat(300_000));
        check(format!("GET / HTTP/1.1\r\n{header}{tail}"), "431", "").await;
        let headers = "x: y\r\n".repeat(HEADERS_MAX);
        check(format!("GET / HTTP/1.1\r\n{headers}{tail}"), "431", "").await;
        check("nonsense\r\n\r\n".to_owned(), "400", "").await;
    });
}

#[test]
fn a_head_in_drops_is_cut_and_others_are_served() {
    local(async {
        let server = start(hasty(), None);
        let mut slow = Vec::new();
        for _ in 0..200 {
            slow.push(TcpStream::connect(server.address).await.unwrap());
        }
        let drops = tokio::task::spawn_local(async move {
            let mut head = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".iter().cycle();
            loop {
                let byte = *head.next().unwrap();
                let mut open = Vec::new();
                for mut socket in slow {
                    if socket.write_all(&[byte]).await.is_ok() {
                        open.push(socket);
                    }
                }
                slow = open;
                if slow.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        while !drops.is_finished() {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            socket.write_all(request.as_bytes()).await.unwrap();
            assert!(read_to_close(&mut socket).await.starts_with("HTTP/1.1 200"));
        }
    });
}

#[test]
fn an_idle_connection_is_closed_but_a_busy_one_is_not() {
    local(async {
        let server = start(hasty(), None);
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(read_to_close(&mut idle).await.starts_with("HTTP/1.1 200"));
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(read_to_close(&mut silent).await, "");
        assert_eq!((server.app.waiting.get(), server.app.abandoned.get()), (1, 0));
    });
}

#[test]
fn a_client_that_leaves_drops_the_future_or_the_body() {
    local(async {
        let server = start(ServeOptions::default(), None);
        for (count, path) in [(1, "/wait"), (2, "/endless")] {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            until(|| server.app.waiting.get() == count).await;
            drop(socket);
            until(|| server.app.abandoned.get() == count).await;
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    local(async {
        let server = start(hasty(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        until(|| server.app.abandoned.get() == 1).await;
        // The body was held back at what the socket and one buffer take.
        assert!(server.app.chunks.get() < support::CHUNKS_MAX / 2);
    });
}

#[test]
fn a_body_that_stops_coming_ends_with_408() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc";
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_close(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("sent nothing of the request body"), "{answer}");
    });
}

#[test]
fn the_longest_waiting_connection_makes_room() {
    local(async {
        let options = ServeOptions { connections_max: 3, ..ServeOptions::default() };
        let server = start(options, None);
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        until(|| server.app.waiting.get() == 1).await;
        let mut second = TcpStream::connect(server.address).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(TcpStream::connect(server.address).await.unwrap());
        }
        assert_eq!(read_to_close(&mut second).await, "");
        let last = others.last_mut().unwrap();
        last.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_to_close(last).await.starts_with("HTTP/1.1 200"));
        assert_eq!(server.app.abandoned.get(), 0);
    });
}

#[test]
fn a_drain_finishes_what_was_accepted() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        until(|| server.app.waiting.get() == 1).await;
        server.drain.start(support::PATIENCE);
        let answer = read_to_close(&mut busy).await;
        assert!(answer.contains("slow") && answer.contains("connection: close"), "{answer}");
        assert!(read_to_close(&mut idle).await.ends_with("hello /"));
        assert_eq!(server.served.await.unwrap().cut, 0);
        assert!(TcpStream::connect(server.address).await.is_err());
    });
}

#[test]
fn a_drain_cuts_at_its_deadline() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        until(|| server.app.waiting.get() == 1).await;
        server.drain.start(Duration::from_millis(50));
        let drained = server.served.await.unwrap();
        assert_eq!((drained.finished, drained.cut), (0, 1));
        until(|| server.app.abandoned.get() == 1).await;
    });
}

#[test]
fn a_connection_can_be_upgraded() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let request = "GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        socket.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
        // It keeps its place: a drain waits for it, up to the deadline.
        server.drain.start(Duration::from_millis(50));
        let drained = server.served.await.unwrap();
        assert_eq!((drained.finished, drained.cut), (0, 1));
        assert_eq!(socket.read(&mut echo).await.unwrap(), 0, "and then closes it");
    });
}
