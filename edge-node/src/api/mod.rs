//! The REST API under /client/v4.
