//! Debugging: how other threads reach the V8 inspector of an instance. Messages of the Chrome DevTools
//! Protocol pass as text; nothing here reads them.

use deno_core::futures::channel::mpsc;
use deno_core::{
    InspectorMsg, InspectorMsgKind, InspectorSessionChannels, InspectorSessionKind,
    InspectorSessionProxy, JsRuntime,
};
use futures_util::StreamExt;

/// Opens debugging sessions with one instance, from any thread.
///
/// While a debugger holds the instance at a breakpoint, the instance's thread is parked: only what a
/// session receives or its end can wake it.
#[derive(Clone)]
pub struct Inspector {
    sessions: mpsc::UnboundedSender<InspectorSessionProxy>,
}

/// Where a session's commands go. The session ends, and whatever it holds at a breakpoint goes on, when
/// this is dropped.
pub struct InspectorCommands(mpsc::UnboundedSender<String>);

/// Where a session's messages come from. The queue has no bound of its own: whoever reads must keep up.
pub struct InspectorMessages(mpsc::UnboundedReceiver<InspectorMsg>);

/// What the inspector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectorMessage {
    /// The answer to one command.
    Reply(String),
    /// Something that happened.
    Event(String),
}

impl Inspector {
    /// Must not keep the runtime's own inspector alive: that has to be gone before the runtime is.
    pub(crate) fn of(runtime: &JsRuntime) -> Self {
        Self { sessions: runtime.inspector().get_session_sender() }
    }

    /// Whether the instance is gone.
    pub fn is_closed(&self) -> bool {
        self.sessions.is_closed()
    }

    /// Opens a session; `None` when the instance is gone.
    pub fn connect(&self) -> Option<(InspectorCommands, InspectorMessages)> {
        let (commands, rx) = mpsc::unbounded();
        let (tx, messages) = mpsc::unbounded();
        let proxy = InspectorSessionProxy {
            channels: InspectorSessionChannels::Regular { tx, rx },
            kind: InspectorSessionKind::NonBlocking { wait_for_disconnect: false },
        };
        self.sessions.unbounded_send(proxy).ok()?;
        Some((InspectorCommands(commands), InspectorMessages(messages)))
    }
}

impl InspectorCommands {
    /// Sends one command. Each has one [`InspectorMessage::Reply`]. False when the instance is gone.
    pub fn send(&self, command: String) -> bool {
        self.0.unbounded_send(command).is_ok()
    }
}

impl InspectorMessages {
    /// The next message; `None` when the session is over.
    pub async fn next(&mut self) -> Option<InspectorMessage> {
        let message = self.0.next().await?;
        Some(match message.kind {
            InspectorMsgKind::Message(_) => InspectorMessage::Reply(message.content),
            InspectorMsgKind::Notification => InspectorMessage::Event(message.content),
        })
    }
}
