use std::fs;
use std::path::Path;

use super::document::Document;
use super::*;

fn project(file: &str, text: &str, environment: Option<&str>) -> Result<Project, ProjectError> {
    let document = Document::parse(&Path::new("/p").join(file), text.to_owned())?;
    Project::from_document(&document, environment)
}

const TOML: &str = r#"
name = "app"
main = "src/index.ts"
compatibility_date = "2026-01-01"
routes = ["a.example/*", { pattern = "shop.example", custom_domain = true }]
vars = { GREETING = "hi", LEVEL = 3, NESTED = { a = [1.5, true] } }
kv_namespaces = [{ binding = "LINKS", id = "abc" }, { binding = "NEW" }]
limits = { cpu_ms = 50 }
keep_vars = true

[triggers]
crons = ["*/5 * * * *"]

[[rules]]
type = "Text"
globs = ["**/*.md"]
fallthrough = true

[[services]]
binding = "AUTH"
service = "auth"

[env.staging]
vars = { GREETING = "staging" }
workers_dev = true

[env.live]
name = "live-app"
route = "live.example/*"
[env.live.triggers]
crons = []
"#;

const JSONC: &str = r#"{
  // The same project, with comments and trailing commas.
  "$schema": "node_modules/wrangler/config-schema.json",
  "name": "app",
  "main": "src/index.ts",
  "compatibility_date": "2026-01-01",
  "routes": ["a.example/*", { "pattern": "shop.example", "custom_domain": true }],
  "vars": { "GREETING": "hi", "LEVEL": 3, "NESTED": { "a": [1.5, true] } },
  "kv_namespaces": [{ "binding": "LINKS", "id": "abc" }, { "binding": "NEW" },],
  "limits": { "cpu_ms": 50 },
  "keep_vars": true,
  "triggers": { "crons": ["*/5 * * * *"] },
  "rules": [{ "type": "Text", "globs": ["**/*.md"], "fallthrough": true }],
  "services": [{ "binding": "AUTH", "service": "auth" }],
  "env": {
    "staging": { "vars": { "GREETING": "staging" }, "workers_dev": true },
    "live": { "name": "live-app", "route": "live.example/*", "triggers": { "crons": [] } },
  },
}"#;

const BOTH: [(&str, &str); 2] = [("wrangler.toml", TOML), ("wrangler.jsonc", JSONC)];

#[test]
fn the_top_level_reads_alike_in_both_formats() {
    for (file, text) in BOTH {
        let p = project(file, text, None).unwrap();
        assert_eq!(p.name.as_deref(), Some("app"), "{file}");
        assert_eq!(p.main.as_deref(), Some(Path::new("/p/src/index.ts")));
        let patterns: Vec<_> = p.routes.iter().map(|r| r.pattern.as_str()).collect();
        assert_eq!(patterns, ["a.example/*", "shop.example/*"]);
        assert!(!p.workers_dev, "routes switch the subdomain off");
        assert_eq!(p.crons.as_deref(), Some(&["*/5 * * * *".to_owned()][..]));
        assert_eq!((p.cpu_ms, p.keep_vars), (Some(50), true));
        assert_eq!(p.bundle.rules[0].kind, RuleKind::Text);
        assert!(p.bundle.rules[0].fallthrough);
        assert!(p.warnings.is_empty(), "{:?}", p.warnings);
        let kv = |name: &str, id: Option<&str>| ProjectBinding::Kv {
            name: name.into(),
            id: id.map(str::to_owned),
        };
        let var = |name: &str, value| ProjectBinding::Var { name: name.into(), value };
        assert_eq!(
            p.bindings,
            [
                var("GREETING", "hi".into()),
                var("LEVEL", 3.into()),
                var("NESTED", serde_json::json!({ "a": [1.5, true] })),
                kv("LINKS", Some("abc")),
                kv("NEW", None),
                ProjectBinding::Service {
                    name: "AUTH".into(),
                    service: "auth".into(),
                    entrypoint: None,
                    props: None
                },
            ]
        );
    }
}

#[test]
fn environments_inherit_what_wrangler_lets_them() {
    for (file, text) in BOTH {
        let staging = project(file, text, Some("staging")).unwrap();
        assert_eq!(staging.name.as_deref(), Some("app-staging"), "{file}");
        assert_eq!(staging.compatibility_date.as_deref(), Some("2026-01-01"));
        assert_eq!(staging.routes.len(), 2);
        assert!(staging.workers_dev);
        assert_eq!(staging.crons.map(|c| c.len()), Some(1));
        let names: Vec<_> = staging.bindings.iter().map(ProjectBinding::name).collect();
        assert_eq!(names, ["GREETING"], "bindings are not inherited");

        let live = project(file, text, Some("live")).unwrap();
        assert_eq!(live.name.as_deref(), Some("live-app"));
        assert_eq!(live.routes[0].pattern, "live.example/*");
        assert_eq!(live.routes.len(), 1);
        assert_eq!(live.crons, Some(vec![]));
        assert!(live.bindings.is_empty());
        assert!(live.keep_vars, "top-level keys hold everywhere");
    }
}

#[test]
fn problems_point_at_their_place() {
    let cases = [
        ("wrangler.toml", "name = 5", "/p/wrangler.toml:1:8: \"name\" must be a string"),
        ("wrangler.toml", "name = \"a\"\nmain = ", "/p/wrangler.toml:2:"),
        ("wrangler.toml", "name = \"Big Name\"", "/p/wrangler.toml:1:8: \"Big Name\" is no worker"),
        ("wrangler.json", "{\n  \"name\": }", "/p/wrangler.json:2:11: "),
        ("wrangler.json", "[]", "/p/wrangler.json:1:1: expected an object"),
        (
            "wrangler.jsonc",
            "{ \"main\": [1] }",
            "/p/wrangler.jsonc:1:11: \"main\" must be a string",
        ),
        (
            "wrangler.toml",
            "name = \"a\"\n\n[[d1_databases]]\nbinding = \"DB\"",
            "/p/wrangler.toml:3:3: \"d1_databases\" is not supported",
        ),
        (
            "wrangler.toml",
            "[[kv_namespaces]]\nid = \"x\"",
            "/p/wrangler.toml:1:1: \"binding\" is missing",
        ),
        (
            "wrangler.json",
            "{ \"rules\": [{ \"type\": \"Perl\", \"globs\": [] }] }",
            "/p/wrangler.json:1:13: rule type \"Perl\" is not supported",
        ),
        (
            "wrangler.toml",
            "vars = { A = \"x\" }\nkv_namespaces = [{ binding = \"A\" }]",
            "/p/wrangler.toml:1:1: two bindings are named \"A\"",
        ),
    ];
    for (file, text, expected) in cases {
        let shown = project(file, text, None).unwrap_err().to_string();
        assert!(shown.starts_with(expected), "{text}\n{shown}\nwanted {expected}");
    }
}

#[test]
fn an_excerpt_marks_the_value() {
    let shown = project("wrangler.toml", "name = \"a\"\nmain = 12", None).unwrap_err().to_string();
    assert!(shown.ends_with("  2 | main = 12\n    |        ^^"), "{shown}");
}

#[test]
fn odd_keys_are_warnings() {
    let text = "name = \"a\"\nnmae = 1\n[env.x]\nkeep_vars = true\nqueues = {}";
    let p = project("wrangler.toml", text, Some("x")).unwrap();
    let shown: Vec<_> = p.warnings.iter().map(|w| (w.line, w.message.as_str())).collect();
    assert_eq!(
        shown,
        [
            (2, "unknown key \"nmae\" is ignored"),
            (4, "\"keep_vars\" belongs at the top level; it is ignored"),
        ]
    );
}

#[test]
fn an_unknown_environment_is_named() {
    let error = project("wrangler.toml", TOML, Some("prod")).unwrap_err().to_string();
    assert!(error.contains("there is no environment \"prod\": there is staging, live"), "{error}");
}

#[test]
fn node_modules_are_there_by_flag_or_date() {
    for (config, expected) in [
        ("compatibility_date = \"2026-01-01\"", false),
        ("compatibility_date = \"2026-01-01\"\ncompatibility_flags = [\"nodejs_compat\"]", true),
        ("compatibility_date = \"2026-09-01\"", true),
        (
            "compatibility_date = \"2026-09-01\"\ncompatibility_flags = [\"no_nodejs_compat\"]",
            false,
        ),
    ] {
        let compatible = project("wrangler.toml", config, None).unwrap().node_compatible();
        assert_eq!(compatible, expected, "{config}");
    }
}

#[test]
fn the_file_is_found_walking_up() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    assert!(matches!(find_config(&deep), Err(ProjectError::NotFound(_))));
    fs::write(root.path().join("wrangler.toml"), "name = \"a\"").unwrap();
    assert_eq!(find_config(&deep).unwrap(), root.path().join("wrangler.toml"));
    fs::write(root.path().join("wrangler.jsonc"), "{}").unwrap();
    assert_eq!(find_config(&deep).unwrap(), root.path().join("wrangler.jsonc"));

    let redirect = root.path().join(".wrangler/deploy");
    fs::create_dir_all(&redirect).unwrap();
    fs::write(redirect.join("config.json"), r#"{ "configPath": "../../dist/wrangler.json" }"#)
        .unwrap();
    assert_eq!(find_config(&deep).unwrap(), redirect.join("../../dist/wrangler.json"));
    fs::write(deep.join("wrangler.jsonc"), "{}").unwrap();
    assert_eq!(
        find_config(&deep).unwrap(),
        deep.join("wrangler.jsonc"),
        "a nested project is its own"
    );
}

#[test]
fn dotenv_files_are_understood() {
    let text = "# comment\nA=1\nexport B = two words # tail\nC=\"x\\ny # no\"\nD='it''s'\n\
                E=`multi\nline`\nnonsense\nF=\nG=a=b\n";
    let parsed = parse_dotenv(text);
    let shown: Vec<_> = parsed.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x\ny # no"),
            ("D", "it"),
            ("E", "multi\nline"),
            ("F", ""),
            ("G", "a=b"),
        ]
    );
}

#[test]
fn dev_vars_win_over_env_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(".env", "A=env\nB=env");
    write(".env.local", "B=local");
    let one = |environment| local_variables(dir.path(), environment);
    assert_eq!(one(None), [("A".into(), "env".into()), ("B".into(), "local".into())]);
    write(".dev.vars", "C=dev");
    assert_eq!(one(None), [("C".into(), "dev".into())]);
    write(".dev.vars.x", "C=x");
    assert_eq!(one(Some("x")), [("C".into(), "x".into())]);
}

#[test]
fn rules_stand_in_the_project_or_in_a_file_of_their_own() {
    let rules = |file: &str, text: &str, environment| {
        project(file, text, environment).unwrap().rules.map(|rules| rules.document)
    };
    let one = Some(serde_json::json!({ "rule": [{ "name": "r" }] }));
    assert_eq!(rules("wrangler.toml", "name = \"a\"", None), None);
    assert_eq!(rules("wrangler.toml", "[[atoll.rules.rule]]\nname = \"r\"", None), one);
    assert_eq!(
        rules("wrangler.json", r#"{"atoll": {"rules": {"rule": [{"name": "r"}]}}}"#, None),
        one
    );
    let own = "[env.x.atoll.rules]\n[[atoll.rules.rule]]\nname = \"r\"";
    assert_eq!(rules("wrangler.toml", own, Some("x")), Some(serde_json::json!({})));
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("wrangler.toml");
    fs::write(&config, "name = \"a\"\natoll = { rules = \"rules.json\", more = 1 }").unwrap();
    fs::write(dir.path().join("rules.json"), r#"{ "rule": [{ "name": "r" }] }"#).unwrap();
    let read = Project::read(&config, None).unwrap();
    assert_eq!(read.rules.as_ref().map(|rules| rules.document.clone()), one);
    assert_eq!(read.rules.unwrap().path.unwrap(), dir.path().join("rules.json"));
    assert!(read.warnings[0].message.contains("atoll.more"), "{:?}", read.warnings);
}

#[test]
fn what_is_wrong_with_rules_has_its_line() {
    let text = "name = \"a\"\n\n[[atoll.rules.rule]]\nname = \"r\"\npercent = 500\n\
                when = { countri = \"DE\",\n  path = 5 }\n[atoll.rules.unit]\n";
    let Err(ProjectError::Invalid(problems)) = project("wrangler.toml", text, None) else {
        panic!("the rules are wrong");
    };
    let told: Vec<_> = problems.iter().map(|p| (p.line, p.column, p.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (8, 1, "a unit is named by `cookie` or by `header`: write one of them"),
            (6, 10, "unknown key \"countri\": did you mean \"country\"?"),
            (7, 10, "expected a string, found 5"),
            (5, 11, "expected a number from 0 to 100, found 500"),
        ]
    );
    let wrong = project("wrangler.toml", "atoll = { rules = 5 }", None);
    assert!(wrong.unwrap_err().to_string().contains("must be a table or a file's name"));
}

#[test]
fn origin_pools_stand_in_the_project() {
    let pools =
        |text: &str, environment| project("wrangler.toml", text, environment).map(|p| p.pools);
    let two = "[[atoll.pools]]\nhost = \"api.b\"\norigins = [{ address = \"http://a.b\" }]\n\
        [atoll.pools.health]\npath = \"/up\"\n\
        [[atoll.pools]]\nhost = \"cdn.b\"\nsteering = \"least-outstanding\"\n\
        [[atoll.pools.origins]]\naddress = \"http://a.b\"";
    let read = pools(two, None).unwrap().unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].health.as_ref().unwrap().path, "/up");
    assert_eq!(pools("name = \"a\"", None).unwrap(), None);
    assert_eq!(pools("atoll = { pools = [] }", None).unwrap(), Some(Vec::new()));
    for (wrong, expected) in [
        ("[atoll.pools]\nhost = \"a.b\"", "must be a list of tables"),
        ("[[atoll.pools]]\nhost = \"a.b\"", "missing field `origins`"),
        ("[[atoll.pools]]\nhosts = \"a.b\"", "wrangler.toml:1:"),
        ("[[atoll.pools]]\nhost = \"a.b\"\norigins = []", "it has 0 origins"),
        (
            "[[atoll.pools]]\nhost = \"a.b\"\norigins = [{ address = \"http://c\" }]\n\n[[atoll.pools]]\nhost = \"d.e\"\norigins = []",
            "wrangler.toml:5:",
        ),
    ] {
        let told = pools(wrong, None).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn regions_stand_in_the_project() {
    let regions =
        |text: &str, environment| project("wrangler.toml", text, environment).map(|p| p.regions);
    let pinned = regions("[atoll.regions]\npin = \"eu\"", None).unwrap().unwrap();
    assert_eq!(pinned.policy.to_string(), "pin eu");
    assert_eq!(regions("name = \"a\"", None).unwrap(), None);
    let own = "[atoll.regions]\npin = \"eu\"\n[env.x.atoll.regions]\nprefer = [\"us\", \"eu\"]";
    assert_eq!(regions(own, Some("x")).unwrap().unwrap().policy.to_string(), "prefer us eu");
    assert!(regions("atoll = { regions = {} }", None).unwrap().unwrap().is_empty());
    let route = "routes = [\"a.b/*\"]\n[[atoll.regions.route]]\npattern = \"a.b/*\"\npin = \"eu\"";
    assert_eq!(regions(route, None).unwrap().unwrap().routes.len(), 1);
    for (wrong, expected) in [
        ("\natoll = { regions = 5 }", "wrangler.toml:2:11: \"atoll.regions\" must be a table"),
        ("[atoll.regions]\nallow = [\"eu\"]\nprefer = [\"us\"]", "\"us\" is not among"),
        ("[atoll.regions]\nallowed = [\"eu\"]", "unknown field `allowed`"),
        ("[[atoll.regions.route]]\npattern = \"a.b/*\"\npin = \"eu\"", "none of the project's"),
    ] {
        let told = regions(wrong, None).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}
