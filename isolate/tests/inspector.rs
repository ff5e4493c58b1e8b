//! A debugger on another thread holds an instance at a breakpoint and lets it go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use atoll_isolate::{Inspector, InspectorCommands, InspectorMessage, InspectorMessages, Limits};
use support::{Setup, Worker, on_isolate_thread, script};

const PAUSING: &str = "export default { fetch() { debugger; return new Response('resumed'); } }";

struct Debugger {
    commands: InspectorCommands,
    messages: InspectorMessages,
}

impl Debugger {
    /// Attaches and waits until breakpoints work.
    async fn attach(inspector: &Inspector) -> Self {
        let (commands, messages) = inspector.connect().unwrap();
        let mut debugger = Self { commands, messages };
        debugger.call("Debugger.enable").await;
        debugger
    }

    async fn call(&mut self, method: &str) -> String {
        assert!(self.commands.send(format!(r#"{{"id":1,"method":"{method}"}}"#)));
        loop {
            if let InspectorMessage::Reply(reply) = self.messages.next().await.unwrap() {
                return reply;
            }
        }
    }

    async fn paused(&mut self) {
        loop {
            match self.messages.next().await.unwrap() {
                InspectorMessage::Event(event) if event.contains("Debugger.paused") => return,
                _ => {}
            }
        }
    }
}

async fn load(thread: &atoll_isolate::IsolateThread, limits: Limits) -> Worker {
    let setup = Setup { limits, inspector: true, ..Setup::new(script(PAUSING)) };
    setup.load(thread).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A parked thread uses no CPU time: the watchdog lets it be for longer than the budget.
#[test]
fn a_pause_costs_no_cpu_time() {
    let budget = Duration::from_millis(100);
    on_isolate_thread(move |thread| async move {
        let worker = load(&thread, Limits { cpu: budget, ..Limits::default() }).await;
        let inspector = worker.instance.inspector().unwrap();
        let (ready, wait) = tokio::sync::oneshot::channel();
        let debugging = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut debugger = Debugger::attach(&inspector).await;
                ready.send(()).unwrap();
                debugger.paused().await;
                std::thread::sleep(budget * 2);
                debugger.call("Debugger.resume").await;
            });
        });
        wait.await.unwrap();
        assert_eq!(worker.get("http://a.test/").await, "resumed");
        assert!(worker.instance.condemned().is_none());
        debugging.join().unwrap();
        assert!(worker.ended.borrow()[0].cpu < budget);
    });
}

/// Dropping an instance under a debugger ends the session, and nothing can attach any more.
#[test]
fn an_instance_goes_away_under_its_debugger() {
    on_isolate_thread(|thread| async move {
        let worker = load(&thread, Limits::default()).await;
        let inspector = worker.instance.inspector().unwrap();
        let mut debugger = Debugger::attach(&inspector).await;
        assert!(!inspector.is_closed());
        drop(worker);
        while debugger.messages.next().await.is_some() {}
        assert!(inspector.is_closed());
        assert!(inspector.connect().is_none());
    });
}

#[test]
fn without_an_inspector_there_is_none() {
    on_isolate_thread(|thread| async move {
        let worker = support::load(&thread, PAUSING).await;
        assert!(worker.instance.inspector().is_none());
        assert_eq!(worker.get("http://a.test/").await, "resumed");
    });
}
