//! The sockets of one invocation: those that its code holds, by number, and the one that it answered with, which
//! keeps it alive.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::connections::Connection;
use crate::invocation::{InvocationKey, Invocations, spawn};
use crate::outcome::Outcome;
use crate::socket::{SendRefusal, Socket, SocketClose, SocketMessage, SocketWatch};

/// Ends of sockets that one invocation may ever have.
const SOCKETS_MAX: usize = 2_048;

/// The code for a socket whose worker has ended, or a node that stops (RFC 6455, 7.4.1).
const CLOSE_GOING_AWAY: u16 = 1001;

/// The code for a socket whose worker was ended by a limit or failed.
const CLOSE_FAILED: u16 = 1011;

/// One end of a socket, as JS has it.
pub(crate) struct SocketEnd {
    socket: RefCell<Option<Socket>>,
    accepted: Cell<bool>,
    /// The connection of an outbound socket, as long as it is open.
    connection: RefCell<Option<Connection>>,
}

/// The sockets that belong to one invocation.
#[derive(Default)]
pub(crate) struct Holding {
    ends: Vec<Rc<SocketEnd>>,
    answered_with: Option<SocketWatch>,
    /// The slice in which the last message for it is delivered.
    pub(crate) woken_in: u64,
}

impl SocketEnd {
    /// Takes the end away, to be handed out.
    pub(crate) fn hand_out(&self) -> Option<Socket> {
        if self.accepted.get() { None } else { self.socket.borrow_mut().take() }
    }

    /// Sends a message. One that waits with too many others breaks the socket off, as the WHATWG standard has it.
    pub(crate) fn send(&self, invocations: &Invocations, message: SocketMessage) {
        let socket = self.socket.borrow();
        let Some(socket) = &*socket else { return };
        if socket.try_send(message, &invocations.sent) == Err(SendRefusal::Full) {
            let reason = "Messages are sent faster than the other side takes them.";
            socket.fail(SocketClose::new(CLOSE_FAILED, reason));
        }
    }

    /// Sends the last message.
    pub(crate) fn close(&self, close: SocketClose) {
        if let Some(socket) = &*self.socket.borrow() {
            socket.close(close);
        }
    }

    /// JS has done with the last message.
    pub(crate) fn over(&self) {
        self.socket.take();
        self.connection.take();
    }

    /// The next message; nothing after the last.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<SocketMessage>> {
        match &*self.socket.borrow() {
            Some(socket) => socket.poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    /// Whether its messages are events: what a worker sends to itself is none.
    pub(crate) fn hears_outside(&self) -> bool {
        self.socket.borrow().as_ref().is_some_and(Socket::hears_outside)
    }

    fn end(&self, close: &SocketClose) {
        self.close(close.clone());
        self.over();
    }
}

impl Holding {
    /// Whether a client is connected by the socket that the invocation answered with.
    pub(crate) fn is_open(&self) -> bool {
        self.answered_with.is_some()
    }

    fn add(&mut self, socket: Socket, connection: Option<Connection>) -> Result<u32, &'static str> {
        if self.ends.len() >= SOCKETS_MAX {
            return Err("Too many WebSockets: one invocation may make 1024 pairs.");
        }
        self.ends.push(Rc::new(SocketEnd {
            socket: RefCell::new(Some(socket)),
            accepted: Cell::new(false),
            connection: RefCell::new(connection),
        }));
        Ok(u32::try_from(self.ends.len() - 1).unwrap_or(u32::MAX))
    }

    /// Closes what is open when the invocation ends.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if self.ends.is_empty() && self.answered_with.is_none() {
            return;
        }
        let close = match outcome {
            Outcome::Ok | Outcome::Canceled | Outcome::Exception => {
                SocketClose::new(CLOSE_GOING_AWAY, "The worker has ended.")
            }
            limit => SocketClose::new(
                CLOSE_FAILED,
                &format!("The worker was ended: {}.", limit.as_str()),
            ),
        };
        if let Some(watch) = self.answered_with.take() {
            watch.close(&close);
        }
        self.ends.drain(..).for_each(|end| end.end(&close));
    }
}

impl Invocations {
    /// One end of a socket by the numbers that JS has of it.
    pub(crate) fn socket(&self, key: InvocationKey, index: u32) -> Option<Rc<SocketEnd>> {
        self.with(key, |invocation| invocation.holding.ends.get(index as usize).cloned()).flatten()
    }

    /// Enters a socket. Gives its number, or the text to throw.
    pub(crate) fn add_socket(
        &self,
        key: InvocationKey,
        socket: Socket,
        connection: Option<Connection>,
    ) -> Result<u32, &'static str> {
        self.with(key, |invocation| invocation.holding.add(socket, connection))
            .unwrap_or(Err("the invocation that this belongs to has ended"))
    }

    /// From here on the worker reads the socket: its messages are events.
    pub(crate) fn accept_socket(&self, key: InvocationKey, index: u32) {
        let Some(end) = self.socket(key, index) else { return };
        end.accepted.set(true);
        self.has_sockets.set(true);
    }

    /// The invocation answers with a socket, and goes on until that is over.
    pub(crate) fn answer_with_socket(self: &Rc<Self>, key: InvocationKey, socket: &Socket) {
        socket.crosses();
        self.has_sockets.set(true);
        let watch = socket.watch();
        if self.with(key, |i| i.holding.answered_with = Some(watch.clone())).is_none() {
            return;
        }
        let invocations = self.clone();
        spawn(async move {
            let closed = watch.over().await;
            // What is left may not count on messages any more.
            invocations.with(key, |invocation| invocation.holding.answered_with = None);
            match closed {
                true => invocations.client_done(key),
                false => invocations.client_left(key),
            }
        });
    }

    /// Closes the sockets that clients have open, towards both ends.
    pub(crate) fn close_sockets(&self, close: &SocketClose) {
        if !self.has_sockets.get() {
            return;
        }
        for key in self.keys() {
            let watch = self.with(key, |i| i.holding.answered_with.clone()).flatten();
            if let Some(watch) = watch {
                watch.close(close);
            }
        }
    }
}
