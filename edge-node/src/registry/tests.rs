//! The registry against a real directory.

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn registry() -> (TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    (dir, registry)
}

pub(crate) fn version(
    account: &AccountId,
    name: &str,
    code: &str,
    bindings: Vec<Binding>,
) -> Version {
    let modules = vec![
        Module {
            name: "index.js".into(),
            kind: ModuleKind::EsModule,
            bytes: Bytes::copy_from_slice(code.as_bytes()),
        },
        Module {
            name: "shared.bin".into(),
            kind: ModuleKind::Data,
            bytes: Bytes::from_static(&[0, 1, 2]),
        },
    ];
    Version {
        id: VersionId::random(),
        worker: WorkerRef { account: account.clone(), worker: WorkerName::new(name) },
        number: 0,
        created_ms: now_ms(),
        format: ScriptFormat::Modules,
        main_module: "index.js".into(),
        content_hash: Version::hash_modules(&modules),
        modules,
        bindings,
        compatibility_date: Some("2026-01-01".into()),
        compatibility_flags: vec!["nodejs_compat".into()],
        limits: VersionLimits::default(),
        annotations: Default::default(),
        handlers: vec!["fetch".into()],
        startup_ms: 3,
    }
}

fn secret(name: &str, text: &str) -> Binding {
    Binding::SecretText { name: name.into(), text: text.into() }
}

#[test]
fn bootstrap_makes_one_account_and_keeps_its_token() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, registry) = registry();
    registry.bootstrap().unwrap();
    let path = dir.path().join("root.token");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let token = registry.authenticate(&text).unwrap().unwrap();
    assert_eq!(registry.account(&token.account).unwrap().subdomain.as_deref(), Some("demo"));

    let again = Registry::open(dir.path()).unwrap();
    again.bootstrap().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(again.authenticate(&text).unwrap(), Some(token));
    let mut forged = text.clone();
    forged.replace_range(text.len() - 1.., if text.ends_with('0') { "1" } else { "0" });
    for wrong in [forged.as_str(), "", "atoll_", &text[1..]] {
        assert_eq!(again.authenticate(wrong).unwrap(), None, "{wrong}");
    }
    let database = std::fs::read(dir.path().join(DATABASE_FILE)).unwrap();
    assert!(!database.windows(text.len()).any(|window| window == text.as_bytes()));
}

#[test]
fn a_bootstrap_that_was_cut_short_takes_the_token_that_was_written() {
    let (dir, registry) = registry();
    let token = NewToken::random();
    std::fs::write(dir.path().join("root.token"), format!("{}\n", token.text)).unwrap();
    registry.bootstrap().unwrap();
    assert!(registry.authenticate(&token.text).unwrap().is_some());
}

#[test]
fn everything_survives_a_restart() {
    let (dir, registry) = registry();
    let account = registry.create_account("a", Some("a")).unwrap();
    let worker = WorkerRef { account: account.id.clone(), worker: WorkerName::new("w") };
    let bindings = vec![secret("KEY", "hunter2"), Binding::VersionMetadata { name: "V".into() }];
    let first = registry
        .add_version(version(&account.id, "w", "1", bindings.clone()), Deploy::Now)
        .unwrap();
    registry.replace_routes(&worker, &["example.com/*".into()]).unwrap();
    registry.replace_schedules(&worker, &["* * * * *".into()]).unwrap();
    let namespace = registry.create_namespace(&account.id, "t").unwrap();
    let before = registry.snapshot();
    drop(registry);

    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "secrets are sealed");
    }
    let registry = Registry::open(dir.path()).unwrap();
    let after = registry.snapshot();
    assert_eq!(after.revision, before.revision);
    assert_eq!(after.routes, before.routes);
    assert_eq!(after.schedules, before.schedules);
    assert_eq!(*after.subdomains, [Arc::new((account.id.clone(), "a".into()))]);
    assert_eq!(after.workers[0].deployment, before.workers[0].deployment);
    let loaded = registry.version(&first.id).unwrap().unwrap();
    assert_eq!(loaded.bindings, bindings);
    assert_eq!(loaded.number, 1);
    assert_eq!(loaded.modules[0].bytes, first.modules[0].bytes);
    assert_eq!(loaded.modules[1].kind, ModuleKind::Data);
    assert_eq!(loaded.content_hash, Version::hash_modules(&loaded.modules));
    assert_eq!(registry.namespace(&account.id, &namespace.id).unwrap(), namespace);
    assert_eq!(registry.versions(&worker).unwrap()[0].bindings[0], secret("KEY", ""));
}

#[test]
fn every_change_publishes_a_newer_snapshot() {
    let (_dir, registry) = registry();
    let mut follower = registry.subscribe();
    let account = registry.create_account("a", None).unwrap().id;
    assert!(follower.has_changed().unwrap());
    let first = follower.borrow_and_update().revision;
    registry.add_version(version(&account, "w", "1", vec![]), Deploy::Now).unwrap();
    let snapshot = follower.borrow_and_update().clone();
    assert!(snapshot.revision > first);
    assert_eq!(snapshot.workers.len(), 1);
    let later = registry.add_version(version(&account, "w", "2", vec![]), Deploy::Later).unwrap();
    assert_eq!(later.number, 2);
    assert_ne!(registry.snapshot().workers[0].deployment.versions[0].0, later.id);
    let failed = registry.add_version(version(&account, "none", "1", vec![]), Deploy::Later);
    assert!(matches!(failed, Err(RegistryError::NotFound { what: Missing::Worker(_) })));
    let revision = registry.snapshot().revision;
    let split = vec![
        (later.id.clone(), 90.0),
        (snapshot.workers[0].deployment.versions[0].0.clone(), 10.0),
    ];
    registry.deploy(&later.worker, split.clone(), Default::default()).unwrap();
    assert_eq!(registry.snapshot().workers[0].deployment.versions, split);
    assert!(registry.snapshot().revision > revision);
    for unfit in [vec![], vec![(later.id.clone(), 99.0)], vec![(VersionId::random(), 100.0)]] {
        assert!(registry.deploy(&later.worker, unfit, Default::default()).is_err());
    }
}

#[test]
fn deleting_a_worker_takes_its_routes_schedules_and_modules() {
    let (_dir, registry) = registry();
    let account = registry.create_account("a", None).unwrap().id;
    let kept = registry.add_version(version(&account, "kept", "1", vec![]), Deploy::Now).unwrap();
    let gone = registry.add_version(version(&account, "gone", "2", vec![]), Deploy::Now).unwrap();
    registry.replace_routes(&gone.worker, &["example.com/*".into()]).unwrap();
    registry.replace_schedules(&gone.worker, &["* * * * *".into()]).unwrap();
    registry.delete_worker(&gone.worker).unwrap();
    let snapshot = registry.snapshot();
    assert_eq!(
        (snapshot.workers.len(), snapshot.routes.len(), snapshot.schedules.len()),
        (1, 0, 0)
    );
    assert!(registry.version(&gone.id).unwrap().is_none());
    let blobs: i64 = registry
        .read(|view| Ok(view.query_row("SELECT count(*) FROM blob", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(blobs, 2, "the module that both had is stored once and kept");
    assert_eq!(registry.version(&kept.id).unwrap().unwrap().modules.len(), 2);
}

#[test]
fn old_versions_are_pruned_unless_a_deployment_names_them() {
    let (_dir, registry) = registry();
    let account = registry.create_account("a", None).unwrap().id;
    let deployed = registry.add_version(version(&account, "w", "0", vec![]), Deploy::Now).unwrap();
    for n in 1..=101 {
        let code = n.to_string();
        registry.add_version(version(&account, "w", &code, vec![]), Deploy::Later).unwrap();
    }
    let numbers: Vec<u64> =
        registry.versions(&deployed.worker).unwrap().iter().map(|v| v.number).collect();
    assert_eq!(numbers.len(), 101);
    assert_eq!((numbers[0], numbers[99], numbers[100]), (102, 3, 1));
}

#[test]
fn an_account_owns_the_hosts_of_its_routes() {
    let (_dir, registry) = registry();
    let a = registry.create_account("a", None).unwrap().id;
    let b = registry.create_account("b", None).unwrap().id;
    let route = registry.add_route(&a, "example.com/*", None).unwrap();
    registry.add_route(&a, "example.com/x*", None).unwrap();
    for pattern in ["example.com/y", "*example.com/*", "*/*", "EXAMPLE.com/*"] {
        let refused = registry.add_route(&b, pattern, None);
        assert!(matches!(refused, Err(RegistryError::Taken { .. })), "{pattern}");
    }
    registry.add_route(&b, "other.com/*", None).unwrap();
    assert!(registry.delete_route(&b, &route.id).is_err());
    let moved = registry.update_route(&a, &route.id, "example.com/z", None).unwrap();
    assert_eq!(moved.id, route.id);
    registry.delete_route(&a, &route.id).unwrap();
    assert_eq!(registry.snapshot().routes.len(), 2);
}

#[test]
fn namespaces_page_to_an_empty_page() {
    let (_dir, registry) = registry();
    let a = registry.create_account("a", None).unwrap().id;
    let b = registry.create_account("b", None).unwrap().id;
    for title in ["c", "a", "b"] {
        registry.create_namespace(&a, title).unwrap();
    }
    let titles = |order, page| -> Vec<String> {
        let page = registry.namespaces(&a, order, page, 2).unwrap();
        assert_eq!(page.total, 3);
        page.namespaces.into_iter().map(|namespace| namespace.title).collect()
    };
    assert_eq!(titles(NamespaceOrder::Title, 0), ["a", "b"]);
    assert_eq!(titles(NamespaceOrder::Title, 1), ["c"]);
    assert!(titles(NamespaceOrder::Title, 2).is_empty());
    assert_eq!(titles(NamespaceOrder::TitleDescending, 0), ["c", "b"]);
    assert!(registry.create_namespace(&a, "a").is_err());
    let other = registry.create_namespace(&b, "a").unwrap();
    assert!(registry.namespace(&a, &other.id).is_err());
    assert!(registry.delete_namespace(&a, &other.id).is_err());
    registry.rename_namespace(&b, &other.id, "z").unwrap();
    assert_eq!(registry.namespace(&b, &other.id).unwrap().title, "z");
    registry.delete_namespace(&b, &other.id).unwrap();
}

#[test]
fn a_newer_schema_is_refused() {
    let (dir, registry) = registry();
    drop(registry);
    rusqlite::Connection::open(dir.path().join(DATABASE_FILE))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let refused = Registry::open(dir.path()).err().unwrap();
    assert!(matches!(refused, RegistryError::SchemaTooNew { found: 99, .. }), "{refused}");
}

#[test]
fn names_are_checked() {
    for (name, fits) in [
        ("hello", true),
        ("a_b-9", true),
        ("", false),
        ("-a", false),
        ("a-", false),
        ("Hello", false),
        ("a.b", false),
        (&"a".repeat(64), false),
    ] {
        assert_eq!(WorkerName::new(name).check().is_ok(), fits, "{name}");
    }
}

#[test]
fn rules_keep_their_units_their_switches_and_their_versions() {
    let (dir, registry) = registry();
    let account = registry.create_account("a", Some("a")).unwrap().id;
    let worker = WorkerRef { account: account.clone(), worker: WorkerName::new("w") };
    let missing = registry.set_rules(&worker, &json!({}));
    assert!(matches!(missing, Err(RegistryError::NotFound { what: Missing::Worker(_) })));
    let first = registry.add_version(version(&account, "w", "0", vec![]), Deploy::Now).unwrap();
    assert_eq!(registry.rules(&worker).unwrap(), None);
    let rules = |a: u32, b: u32| {
        let variants = json!([
            { "name": "a", "weight": a, "version": first.id }, { "name": "b", "weight": b },
        ]);
        json!({ "rule": [{ "name": "r", "variants": variants }] })
    };
    registry.set_rules(&worker, &rules(50, 50)).unwrap();
    let stored = registry.set_rules(&worker, &rules(40, 60)).unwrap();
    let buckets = &stored.overlay.history["r"].buckets;
    assert_eq!((&buckets["a"], &buckets["b"]), (&vec![(0, 5_000)], &vec![(5_000, 10_000)]));
    let set = stored.compile().unwrap();
    assert_eq!(set.rules()[0].buckets(now_ms()), [4_000, 6_000]);

    registry.switch_rule(&worker, "r", Switch::Off).unwrap();
    let stored = registry.set_rules(&worker, &rules(40, 60)).unwrap();
    assert!(stored.overlay.switched_off.contains("r"));
    let unknown = registry.switch_rule(&worker, "x", Switch::Off);
    assert!(matches!(unknown, Err(RegistryError::NotFound { what: Missing::Rule(_) })));
    let wrong = registry.set_rules(&worker, &json!({ "rule": [{ "name": 1 }] }));
    assert!(matches!(wrong, Err(RegistryError::Invalid(why)) if why.contains("rule[0].name")));
    let nowhere =
        registry.set_rules(&worker, &json!({ "rule": [{ "name": "r", "version": "v" }] }));
    assert!(matches!(nowhere, Err(RegistryError::NotFound { what: Missing::Version(_) })));

    // A version that a rule names outlives the deployments that had it.
    for number in 1..=205 {
        let code = number.to_string();
        registry.add_version(version(&account, "w", &code, vec![]), Deploy::Now).unwrap();
    }
    assert!(registry.version(&first.id).unwrap().is_some());
    assert_eq!(registry.snapshot().rules[0].versions, vec![first.id.clone()]);
    drop(registry);
    let registry = Registry::open(dir.path()).unwrap();
    assert_eq!(registry.rules(&worker).unwrap(), Some(stored));
    registry.delete_rules(&worker).unwrap();
    registry.add_version(version(&account, "w", "last", vec![]), Deploy::Now).unwrap();
    assert!(registry.version(&first.id).unwrap().is_none());
    registry.set_rules(&worker, &json!({ "rule": [{ "name": "r" }] })).unwrap();
    registry.delete_worker(&worker).unwrap();
    assert!(registry.snapshot().rules.is_empty());
}
