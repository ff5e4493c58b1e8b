//! How instances begin: in isolates made for them, or in spare ones made ahead.

mod support;

use atoll_isolate::Limits;
use support::{Setup, load, on_isolate_thread, script};

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

#[test]
fn a_spare_isolate_made_for_other_limits_is_left() {
    on_isolate_thread(|thread| async move {
        thread.make_spare();
        let mut setup = Setup::new(script(HELLO));
        setup.limits = Limits { heap_bytes_max: 64 << 20, ..setup.limits };
        let worker = setup.load(&thread).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(worker.get("http://a.test/").await, "1");
        assert_eq!(thread.spares(), 1);
        // The next ones are made like the last that was asked for.
        thread.make_spare();
        assert_eq!(thread.spares(), 1);
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
