//! How instances begin: in isolates made for them, or in spare ones made ahead.

mod support;

use atoll_isolate::{Limits, ModuleKind, Outcome, Script, ScriptFormat};
use support::{Setup, engine, load, module, on_isolate_thread, script};

const HELLO: &str = "let calls = 0; export default { fetch: () => new Response(`${++calls}`) }";

#[test]
fn a_spare_isolate_becomes_an_instance() {
    on_isolate_thread(|thread| async move {
        for wanted in 1..=2 {
            thread.make_spare();
            assert_eq!(thread.spares(), wanted);
        }
        let first = load(&thread, HELLO).await;
        let second = load(&thread, HELLO).await;
        assert_eq!(thread.spares(), 0);
        let third = load(&thread, HELLO).await;
        for worker in [&first, &second, &third] {
            assert_eq!(worker.get("http://a.test/").await, "1", "instances share nothing");
        }
    });
}

/// Limits are set when the script is known, whatever the isolate was made for.
#[test]
fn a_spare_isolate_takes_any_limits() {
    on_isolate_thread(|thread| async move {
        thread.make_spare();
        let source =
            "export default { fetch: () => new Response(`${new Uint8Array(8 << 20).length}`) }";
        let mut setup = Setup::new(script(source));
        setup.limits = Limits { memory_bytes_max: 4 << 20, ..setup.limits };
        let small = setup.load(&thread).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(thread.spares(), 0);
        assert_eq!(small.get_failure("http://a.test/").await.outcome, Outcome::Exception);
        thread.make_spare();
        let large = load(&thread, source).await;
        assert_eq!(large.get("http://a.test/").await, "8388608");
        thread.make_spare();
        thread.drop_spares();
        assert_eq!(thread.spares(), 0);
    });
}

#[test]
fn a_debugged_instance_takes_no_spare_isolate() {
    on_isolate_thread(|thread| async move {
        thread.make_spare();
        let mut setup = Setup::new(script(HELLO));
        setup.inspector = true;
        let worker = setup.load(&thread).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(thread.spares(), 1);
        assert!(worker.instance.inspector().is_some());
    });
}

#[test]
fn who_keeps_spares_is_told_when_one_is_taken() {
    on_isolate_thread(|thread| async move {
        thread.spare_wanted(1).await;
        thread.make_spare();
        let idle = thread.slices();
        assert_eq!(thread.slices(), idle);
        let waiting = thread.clone();
        let waiter = tokio::task::spawn_local(async move { waiting.spare_wanted(1).await });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        load(&thread, HELLO).await;
        assert!(thread.slices() > idle);
        waiter.await.unwrap();
    });
}

/// Code is kept once a script has been called a few times, and the next instance starts from it.
#[test]
fn code_is_kept_after_the_first_calls() {
    on_isolate_thread(|thread| async move {
        let source = "import { two } from './two.js'; const one = () => 1; \
            export default { fetch: () => new Response(`${one() + two()}`) };";
        let modules = || {
            vec![
                module("index.js", ModuleKind::EsModule, source),
                module("two.js", ModuleKind::EsModule, "export const two = () => 2;"),
            ]
        };
        let load = async || {
            let setup = Setup::new(Script::new(ScriptFormat::Modules, "index.js", modules()));
            setup.load(&thread).await.unwrap_or_else(|error| panic!("{error}"))
        };
        let first = load().await;
        for _ in 0..3 {
            assert!(!thread.keep_code(), "too few calls");
            assert_eq!(first.get("http://a.test/").await, "3");
        }
        assert!(thread.keep_code());
        assert!(!thread.keep_code(), "once is enough");
        let second = load().await;
        for _ in 0..4 {
            assert_eq!(second.get("http://a.test/").await, "3");
        }
        assert!(!thread.keep_code(), "the second instance compiled nothing");
        assert_eq!(first.get("http://a.test/").await, "3");
    });
}

/// What was deployed is compiled before its first load; a long source without its functions, which are kept later.
#[test]
fn scripts_are_compiled_before_they_are_loaded() {
    on_isolate_thread(|thread| async move {
        let filler = format!("/*{}*/", "x".repeat(32 << 10));
        for (longer, kept_later) in [("", false), (filler.as_str(), true)] {
            let source = format!(
                "{longer} const one = () => 1; export default {{ fetch: () => new Response(`${{one()}}`) }};"
            );
            let broken = format!("{longer} export default {{ fetch: () => new Response( }}");
            engine().compile_ahead(script(&broken).into());
            engine().compile_ahead(script(&source).into());
            while thread.compile_ahead() {}
            assert!(!thread.has_ahead());
            let worker = load(&thread, &source).await;
            for _ in 0..4 {
                assert_eq!(worker.get("http://a.test/").await, "1");
            }
            assert_eq!(thread.keep_code(), kept_later);
            let error =
                Setup::new(script(&broken)).load(&thread).await.err().expect("a syntax error");
            assert!(error.to_string().contains("SyntaxError"), "{error}");
        }
    });
}
