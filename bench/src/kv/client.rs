//! How each kind of store is spoken to.

use std::net::SocketAddr;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, Stream};
use atoll_kv::{Key, KvStore, NamespaceId, PutOptions, SqliteOptions, SqliteStore};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::plan::Target;
use super::resp;
use crate::http::{Bodies, Parser};

const READ_BYTES: usize = 256 * 1024;
/// What the streams of the bare engine begin with.
const STREAM: &str = "bench";

/// What all clients of a store share.
pub(super) enum Clients {
    Worker { address: SocketAddr, host: String },
    Redis(SocketAddr),
    JetStream { urls: Vec<String>, streams: usize },
    Sqlite(SqliteStore, NamespaceId),
}

/// One client.
pub(super) enum Client {
    Worker { stream: TcpStream, host: String },
    Redis(TcpStream),
    JetStream { context: Context, streams: Vec<Stream> },
    Sqlite(SqliteStore, NamespaceId),
}

impl Clients {
    pub(super) async fn open(target: &Target) -> Result<Self, String> {
        Ok(match target.clone() {
            Target::Worker { address, host } => Self::Worker { address, host },
            Target::Redis { address } => Self::Redis(address),
            Target::JetStream { urls, streams } => Self::JetStream { urls, streams },
            Target::Sqlite { directory } => {
                let path = directory.join("kv.sqlite");
                let store = SqliteStore::open(&path, SqliteOptions::default()).map_err(text)?;
                let namespace = NamespaceId::parse("00000000000000000000000000000001");
                Self::Sqlite(store, namespace.map_err(text)?)
            }
        })
    }

    pub(super) async fn client(&self) -> Result<Client, String> {
        Ok(match self {
            Self::Worker { address, host } => {
                Client::Worker { stream: connect(*address).await?, host: host.clone() }
            }
            Self::Redis(address) => Client::Redis(connect(*address).await?),
            Self::JetStream { urls, streams } => jetstream(urls, *streams).await?,
            Self::Sqlite(store, namespace) => Client::Sqlite(store.clone(), namespace.clone()),
        })
    }

    pub(super) async fn close(&self) {
        if let Self::Sqlite(store, _) = self {
            store.close().await;
        }
    }
}

/// A client with a connection of its own. The first one makes the streams.
async fn jetstream(urls: &[String], count: usize) -> Result<Client, String> {
    let client = async_nats::connect(urls).await.map_err(text)?;
    let context = async_nats::jetstream::new(client);
    let mut streams = Vec::with_capacity(count);
    for index in 0..count {
        let config = Config {
            name: format!("{STREAM}_{index}"),
            subjects: vec![format!("{STREAM}.{index}.>")],
            max_messages_per_subject: 1,
            num_replicas: urls.len(),
            allow_direct: true,
            ..Config::default()
        };
        streams.push(context.get_or_create_stream(config).await.map_err(text)?);
    }
    Ok(Client::JetStream { context, streams })
}

impl Client {
    pub(super) async fn put(&mut self, key: &str, value: &Bytes) -> Result<(), String> {
        match self {
            Self::Worker { stream, host } => {
                let head = format!(
                    "PUT /{key} HTTP/1.1\r\nHost: {host}\r\ncontent-length: {}\r\n\r\n",
                    value.len()
                );
                http(stream, &head, value, 204).await.map(drop)
            }
            Self::Redis(stream) => {
                let head =
                    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len());
                let message = [head.as_bytes(), value, b"\r\n"].concat();
                resp::exchange(stream, &message).await.map(drop)
            }
            Self::JetStream { context, streams } => {
                let subject = subject(key, streams.len());
                let acknowledged = context.publish(subject, value.clone()).await.map_err(text)?;
                acknowledged.await.map(drop).map_err(text)
            }
            Self::Sqlite(store, namespace) => {
                let key = Key::parse(key).map_err(text)?;
                let put = store.put(namespace, &key, value.clone(), PutOptions::default());
                put.await.map_err(text)
            }
        }
    }

    /// The number of bytes that the key has.
    pub(super) async fn get(&mut self, key: &str) -> Result<usize, String> {
        match self {
            Self::Worker { stream, host } => {
                let head = format!("GET /{key} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                http(stream, &head, &[], 200).await
            }
            Self::Redis(stream) => {
                let message = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
                resp::exchange(stream, message.as_bytes()).await
            }
            Self::JetStream { streams, .. } => {
                let subject = subject(key, streams.len());
                let stream = &streams[shard(key, streams.len())];
                let found = stream.direct_get_last_for_subject(subject).await.map_err(text)?;
                Ok(found.payload.len())
            }
            Self::Sqlite(store, namespace) => {
                let key = Key::parse(key).map_err(text)?;
                let found = store.get(namespace, &key).await.map_err(text)?;
                Ok(found.map_or(0, |entry| entry.value.len()))
            }
        }
    }
}

fn shard(key: &str, streams: usize) -> usize {
    key.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % streams
}

fn subject(key: &str, streams: usize) -> String {
    format!("{STREAM}.{}.{key}", shard(key, streams))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    Ok(stream)
}

/// One request; answers the bytes of the response's body.
async fn http(
    stream: &mut TcpStream,
    head: &str,
    body: &[u8],
    status: u16,
) -> Result<usize, String> {
    stream.write_all(&[head.as_bytes(), body].concat()).await.map_err(text)?;
    let mut parser = Parser::new(Bodies::Count);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut buffer).await.map_err(text)?;
        if read == 0 {
            return Err("the connection was closed".to_owned());
        }
        let fed = parser.feed(&buffer[..read]).map_err(|why| why.0.to_owned())?;
        match fed {
            Some(response) if response.status == status => return Ok(response.body_bytes as usize),
            Some(response) => return Err(format!("status {}", response.status)),
            None => {}
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
