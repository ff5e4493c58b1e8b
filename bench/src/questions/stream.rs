//! What does a streamed megabyte cost?

use super::{Answer, Question};

pub(super) const QUESTION: Question = Question {
    name: "stream",
    handler: "stream",
    workerd_config: "stream",
    compared: "A handler that returns a ReadableStream which enqueues 16 chunks of 64 KiB, one a \
               pull. A request is one whole megabyte.",
    answer: Answer::Repeated(b'a', 16 * 64 * 1024),
    connections: 16,
    kv_pair: None,
};
