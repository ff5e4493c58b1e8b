//! Small messages between nodes that nothing keeps: whoever is away misses them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::connection::{NatsConnection, NatsError};

/// A message that came on a subscription.
pub struct Message {
    /// Where it was sent, without the cluster's prefix.
    pub subject: String,
    /// What.
    pub payload: Bytes,
    reply: Option<async_nats::Subject>,
    client: Client,
}

/// The messages on a subject from the moment of subscribing. It holds as many as
/// `NatsOptions::subscription_capacity` says; further ones are dropped. Dropping it ends it.
pub struct Subscription {
    subscriber: Subscriber,
    client: Client,
    prefix_bytes: usize,
}

impl NatsConnection {
    /// Sends a message to all who are subscribed now. It is on its way when this returns, not there.
    ///
    /// # Errors
    /// `Disconnected` or `Send`.
    pub async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), NatsError> {
        if !self.is_connected() {
            return Err(NatsError::Disconnected);
        }
        let sent = self.client().publish(self.message_subject(subject), payload).await;
        sent.map_err(|error| NatsError::Send(error.to_string()))
    }

    /// Receives the messages on a subject; `*` stands for one token and a last `>` for one or more.
    ///
    /// # Errors
    /// `Send` for a malformed subject.
    pub async fn subscribe(&self, subject: &str) -> Result<Subscription, NatsError> {
        let subscribed = self.client().subscribe(self.message_subject(subject)).await;
        let subscriber = subscribed.map_err(|error| NatsError::Send(error.to_string()))?;
        let prefix_bytes = self.message_subject("").len();
        Ok(Subscription { subscriber, client: self.client().clone(), prefix_bytes })
    }

    /// Sends a message and waits for the first answer, for `timeout` at most.
    ///
    /// # Errors
    /// `Disconnected`, `NoResponders`, `TimedOut` or `Send`.
    pub async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, NatsError> {
        if !self.is_connected() {
            return Err(NatsError::Disconnected);
        }
        let request = Request::new().payload(payload).timeout(Some(timeout));
        let answer = self.client().send_request(self.message_subject(subject), request).await;
        match answer {
            Ok(message) => Ok(message.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => NatsError::NoResponders(subject.to_owned()),
                RequestErrorKind::TimedOut => NatsError::TimedOut(subject.to_owned()),
                _ => NatsError::Send(error.to_string()),
            }),
        }
    }

    /// Messages lie beside all logs: no stream takes them.
    fn message_subject(&self, subject: &str) -> String {
        format!("{}.-.{subject}", self.prefix())
    }
}

impl Message {
    /// Whether the sender waits for an answer.
    pub fn wants_answer(&self) -> bool {
        self.reply.is_some()
    }

    /// Answers the sender, if it waits for an answer.
    ///
    /// # Errors
    /// `Send`.
    pub async fn answer(&self, payload: Bytes) -> Result<(), NatsError> {
        let Some(reply) = self.reply.clone() else { return Ok(()) };
        let sent = self.client.publish(reply, payload).await;
        sent.map_err(|error| NatsError::Send(error.to_string()))
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.subscriber.poll_next_unpin(context).map(|message| {
            message.map(|message| Message {
                subject: message.subject.as_str()[self.prefix_bytes..].to_owned(),
                payload: message.payload,
                reply: message.reply,
                client: self.client.clone(),
            })
        })
    }
}
