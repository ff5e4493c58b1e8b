//! The questions that the benches ask, one per file. Each is a handler, the same for every server,
//! and what it must answer.

mod hello;
mod json;
mod kv_get;
mod stream;

/// What a server is asked.
pub(crate) struct Question {
    /// The name on the command line and in results.
    pub(crate) name: &'static str,
    /// The handler's file in `compare/handlers`, without its extension.
    pub(crate) handler: &'static str,
    /// The constant in `compare/workerd.capnp`.
    pub(crate) workerd_config: &'static str,
    /// What exactly is compared, in a sentence or two.
    pub(crate) compared: &'static str,
    /// The right answer's body.
    pub(crate) answer: Answer,
    /// Concurrent connections, unless the command line says otherwise.
    pub(crate) connections: usize,
    /// The pair that the handler reads from `env.KV`, when it reads one.
    pub(crate) kv_pair: Option<(&'static str, &'static str)>,
}

/// A right body.
pub(crate) enum Answer {
    Text(&'static str),
    /// This many times this byte.
    Repeated(u8, usize),
}

impl Answer {
    pub(crate) fn bytes(&self) -> u64 {
        match *self {
            Self::Text(text) => text.len() as u64,
            Self::Repeated(_, count) => count as u64,
        }
    }

    pub(crate) fn is(&self, body: &[u8]) -> bool {
        match *self {
            Self::Text(text) => body == text.as_bytes(),
            Self::Repeated(byte, count) => {
                body.len() == count && body.iter().all(|&other| other == byte)
            }
        }
    }
}

/// Every question, in the order of the report.
pub(crate) const ALL: [&Question; 4] =
    [&hello::QUESTION, &json::QUESTION, &kv_get::QUESTION, &stream::QUESTION];
