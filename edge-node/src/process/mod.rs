//! The control link between a node's supervisor and the processes that run tenant code: frames over a
//! Unix socket, and the words that each side says. It decides nothing.

mod fds;
mod frame;
pub(crate) mod geo;
pub(crate) mod kv;
mod link;
mod messages;

pub(crate) use fds::{FDS_MAX, receive_fds, send_fds};
pub(crate) use frame::{FrameLimits, LinkError};
pub(crate) use link::{LinkReader, LinkSender, open, own_link};
pub(crate) use messages::{
    CheckStart, FromCheck, FromServing, QuicSeats, ServingStart, ToCheck, ToServing, join_modules,
    split_modules,
};
