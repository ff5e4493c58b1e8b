//! What does a small JSON answer cost?

use super::{Answer, Question};

pub(super) const QUESTION: Question = Question {
    name: "json",
    handler: "json",
    workerd_config: "json",
    compared: "A handler that builds an object of three levels, stringifies it to 207 bytes and \
               sets a content type.",
    answer: Answer::Text(
        "{\"method\":\"GET\",\"id\":42,\
         \"customer\":{\"name\":\"Ada\",\"city\":\"London\",\"vip\":true},\
         \"lines\":[{\"sku\":\"sku-1\",\"quantity\":1,\"price\":10},\
         {\"sku\":\"sku-2\",\"quantity\":2,\"price\":20},\
         {\"sku\":\"sku-3\",\"quantity\":3,\"price\":30}]}",
    ),
    connections: 64,
    kv_pair: None,
};
