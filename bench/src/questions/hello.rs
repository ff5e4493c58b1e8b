//! What does a request cost that does nothing?

use super::{Answer, Question};

pub(super) const QUESTION: Question = Question {
    name: "hello",
    handler: "hello",
    workerd_config: "hello",
    compared: "A handler that returns a constant text of 13 bytes. Atoll also routes by host, \
               enforces limits and meters; the peers do none of the three.",
    answer: Answer::Text("hello, world\n"),
    connections: 64,
    kv_pair: None,
};
