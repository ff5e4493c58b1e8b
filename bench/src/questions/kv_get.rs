//! What does reading a key cost?

use super::{Answer, Question};

pub(super) const QUESTION: Question = Question {
    name: "kv-get",
    handler: "kv_get",
    workerd_config: "kvGet",
    compared: "A handler that awaits `env.KV.get(\"greeting\")`, one hot key. The stores differ: \
               atoll's KV (SQLite behind a memory cache); for workerd, which brings no store, a \
               second worker in the same process that answers its KV protocol from memory; \
               `Deno.openKv` on a file for deno; a prepared `bun:sqlite` query on a file for bun, \
               which does not leave the thread.",
    answer: Answer::Text("hello from kv\n"),
    connections: 64,
    kv_pair: Some(("greeting", "hello from kv\n")),
};
