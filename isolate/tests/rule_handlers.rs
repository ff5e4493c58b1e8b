//! Scripts decide about requests within a tight budget, and tell outcomes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use atoll_isolate::{FetchEvent, Limits, Outcome};
use http::Request;
use support::{Setup, Worker, load, on_isolate_thread, script};

impl Worker {
    async fn rule(&self, path: &str) -> Result<Option<String>, Outcome> {
        let ended = self.ended.clone();
        let event = FetchEvent {
            id: "0123456789abcdef".into(),
            url: format!("http://a.test{path}").into(),
            request: Request::get(path).header("x-plan", "pro").body(None).unwrap(),
            facts: None,
        };
        let on_end = Box::new(move |record| ended.borrow_mut().push(record));
        let read = |text: &str| match text {
            "false" => Err("no decision".to_owned()),
            text => Ok(text.to_owned()),
        };
        self.instance.rule(event, read, on_end).await.map_err(|failure| failure.outcome)
    }
}

const DECIDES: &str = "let count = 0; export default { \
  async rule(request, ctx, env) { \
    count += 1; \
    const { pathname } = new URL(request.url); \
    if (pathname === '/loop') for (;;) {} \
    if (pathname === '/microtasks') { const again = () => Promise.resolve().then(again); await again(); await new Promise(() => {}); } \
    if (pathname === '/throw') throw new TypeError('no'); \
    if (pathname === '/never') await new Promise((r) => setTimeout(r, 60_000)); \
    if (pathname === '/function') return () => 1; \
    if (pathname === '/later') await scheduler.wait(1); \
    if (pathname === '/none') return; \
    return { variant: request.headers.get('x-plan'), body: request.body, count, keys: Object.keys(env) }; \
  }, \
  async fetch() { await scheduler.wait(50); return new Response(`${count}`); } };";

#[test]
fn a_handler_decides_or_fails_alone() {
    on_isolate_thread(|thread| async move {
        let limits = Limits { rule_wall: Duration::from_millis(500), ..Limits::default() };
        let setup = Setup { limits, ..Setup::new(script(DECIDES)) };
        let worker = setup.load(&thread).await.unwrap();
        assert_eq!(worker.instance.handlers(), ["fetch", "rule"]);
        let decided = r#"{"variant":"pro","body":null,"count":1,"keys":[]}"#;
        assert_eq!(worker.rule("/").await, Ok(Some(decided.to_owned())));
        assert_eq!(worker.rule("/none").await, Ok(None));
        assert!(matches!(worker.rule("/later").await, Ok(Some(_))));
        // A request that is under way goes on whatever rules do.
        let request = Request::get("http://a.test/").body(None).unwrap();
        let fetching = worker.request(request);
        assert_eq!(worker.rule("/throw").await, Err(Outcome::Exception));
        assert_eq!(worker.rule("/loop").await, Err(Outcome::ExceededCpu));
        assert_eq!(worker.rule("/microtasks").await, Err(Outcome::ExceededCpu));
        assert_eq!(worker.rule("/function").await, Err(Outcome::Exception));
        assert_eq!(worker.instance.condemned(), None);
        assert_eq!(support::text(fetching.await.unwrap()).await, "7");
        assert_eq!(worker.rule("/never").await, Err(Outcome::ExceededWall));
        assert!(matches!(worker.rule("/").await, Ok(Some(_))));
        assert_eq!(worker.instance.condemned(), None);
    });
}

#[test]
fn outcomes_are_bounded() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "export default { fetch(request, env, ctx) { \
               const said = []; \
               const say = (f) => { try { f(); said.push('ok'); } catch (e) { said.push(`${e.name}: ${e.message}`); } }; \
               say(() => ctx.track('bought')); \
               say(() => ctx.track('spent.eur', 12.5)); \
               say(() => ctx.track('')); \
               say(() => ctx.track('a b')); \
               say(() => ctx.track('a', NaN)); \
               say(() => ctx.track('a', '1')); \
               say(() => ctx.track('a', 1e13)); \
               say(() => ctx.track(1)); \
               for (let i = 0; i < 98; i++) ctx.track('more'); \
               say(() => ctx.track('more')); \
               return Response.json(said); } }",
        )
        .await;
        let said = worker.get("http://a.test/").await;
        for expected in [
            "\"ok\",\"ok\",\"TypeError: a metric is called by 1 to 64 letters",
            "TypeError: the value of metric \\\"a\\\" is no number from -1e12 to 1e12",
            "TypeError: the value of metric \\\"a\\\" is no number\"",
            "TypeError: track takes the name of a metric first",
            "RangeError: one invocation may call track 100 times",
        ] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    });
}
