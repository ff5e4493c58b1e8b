//! From a request to an isolate and back.
