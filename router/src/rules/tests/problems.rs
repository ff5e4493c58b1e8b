//! What is wrong with a document is said with its place and with what to write.

use super::*;

/// The problems of a document, one a line.
fn problems(document: Value) -> String {
    let error = RuleSet::parse(&document, Overlay::default()).expect_err("the document is wrong");
    error.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn problems_name_their_place() {
    let rule = |rule: Value| json!({ "rule": [rule] });
    for (document, expected) in [
        (json!([]), "expected a table, found an array"),
        (json!({ "rules": [] }), "rules: unknown key \"rules\": did you mean \"rule\"?"),
        (json!({ "rule": {} }), "rule: expected an array of rules, found a table"),
        (rule(json!({})), "rule[0]: `name` is missing"),
        (
            rule(json!({ "name": "a b" })),
            "rule[0].name: \"a b\" is no name: write 1 to 64 letters, digits, \"-\", \"_\" or \".\"",
        ),
        (
            rule(json!({ "name": "r", "when": { "contry": "DE" } })),
            "rule[0].when.contry: unknown key \"contry\": did you mean \"country\"?",
        ),
        (
            rule(json!({ "name": "r", "when": { "country": "Germany" } })),
            "rule[0].when.country: \"germany\" is no country: write its two letters, such as DE",
        ),
        (
            rule(json!({ "name": "r", "when": { "any": [{ "device": "phone" }] } })),
            "rule[0].when.any[0].device: unknown value \"phone\": there is mobile, tablet, desktop, bot",
        ),
        (
            rule(json!({ "name": "r", "when": { "path": { "start": "/" } } })),
            "rule[0].when.path.start: unknown key \"start\": there is eq, in, prefix, suffix, contains, matches, glob, exists, lt, lte, gt, gte",
        ),
        (
            rule(json!({ "name": "r", "when": { "path": { "matches": "(" } } })),
            "rule[0].when.path.matches: \"(\" is no regular expression: error: unclosed group",
        ),
        (
            rule(json!({ "name": "r", "when": { "time": { "after": "soon" } } })),
            "rule[0].when.time.after: \"soon\" is no time: write it with its offset, such as 2026-11-26T14:00:00Z",
        ),
        (
            rule(json!({ "name": "r", "percent": 101 })),
            "rule[0].percent: expected a number from 0 to 100, found 101",
        ),
        (
            rule(json!({ "name": "r", "variants": [{ "name": "a", "weight": 0 }] })),
            "rule[0]: no variant has any weight: give one of them a `weight` over 0",
        ),
        (
            rule(json!({ "name": "r", "variants": [{ "name": "a" }], "rewrite": "/" })),
            "rule[0].rewrite: a rule with variants leaves this to them: move it there",
        ),
        (
            rule(json!({ "name": "r", "variants": [{ "name": "a" }, { "name": "a" }] })),
            "rule[0]: two of the variants are called \"a\": rename one",
        ),
        (
            rule(json!({ "name": "r", "version": "v", "worker": "w" })),
            "rule[0]: a variant has `version` or `worker`, not both",
        ),
        (
            rule(json!({ "name": "r", "rewrite": "x" })),
            "rule[0].rewrite: a path begins with \"/\" or {path}",
        ),
        (
            rule(json!({ "name": "r", "redirect": { "location": "/", "status": 200 } })),
            "rule[0].redirect.status: expected 301, 302, 303, 307 or 308, found 200",
        ),
        (
            rule(
                json!({ "name": "r", "percent": 5, "redirect": { "location": "/x", "status": 308 } }),
            ),
            "rule[0]: browsers keep redirects of status 301 and 308 for good, and not everybody is sent there by this rule: use 302 or 307",
        ),
        (
            rule(json!({ "name": "r", "request_headers": { "host": "x" } })),
            "rule[0].request_headers.host: this header is the node's own: rules cannot change it",
        ),
        (
            rule(json!({ "name": "r", "requires": { "q": "on" } })),
            "rule[0].requires.q: \"q\" is no rule of an earlier layer, which alone can be required: there is none",
        ),
        (
            rule(json!({ "name": "r", "range": [50, 10] })),
            "rule[0].range: a range is two percentages, the smaller one first, such as [0, 50]",
        ),
        (
            rule(json!({ "name": "r", "ramp": [{ "percent": 5 }] })),
            "rule[0].ramp[0]: `at` is missing: when the point is reached, such as 2026-11-26T14:00:00Z\nrule[0].ramp: a ramp has at least one point: { at = \"…\", percent = 5 }",
        ),
        (
            json!({ "unit": {} }),
            "unit: a unit is named by `cookie` or by `header`: write one of them",
        ),
        (
            json!({ "preview_token_sha256": "secret" }),
            "preview_token_sha256: expected 64 hexadecimal digits, the SHA-256 of a token: `atoll rules token` makes one",
        ),
        (
            json!({ "holdout": [{ "name": "h", "percent": 5, "rules": ["x"] }], "rule": [{ "name": "y" }] }),
            "holdout[0].rules: unknown rule \"x\": did you mean \"y\"?",
        ),
    ] {
        assert_eq!(problems(document.clone()), expected, "{document}");
    }
}

#[test]
fn every_problem_is_told_at_once_up_to_a_limit() {
    let broken: Vec<_> =
        (0..50).map(|n| json!({ "name": format!("r{n}"), "percent": "x" })).collect();
    assert_eq!(problems(json!({ "rule": broken })).lines().count(), 20);
    let deep = (0..100).fold(json!({}), |inner, _| json!({ "not": inner }));
    let found = problems(json!({ "rule": [{ "name": "r", "when": deep }] }));
    assert!(found.contains("at most 16 deep"), "{found}");
    let many: Vec<_> = (0..1_001).map(|n| json!({ "name": format!("r{n}") })).collect();
    assert!(problems(json!({ "rule": many })).contains("a set has at most 1000"));
    let regexes: Vec<_> =
        (0..201).map(|n| json!({ "path": { "glob": format!("/{n}") } })).collect();
    let found = problems(json!({ "rule": [{ "name": "r", "when": { "any": regexes } }] }));
    assert!(found.contains("at most 200 regular expressions"), "{found}");
    let large = json!({ "path": { "matches": "((a{100}){100}){100}" } });
    assert!(problems(json!({ "rule": [{ "name": "r", "when": large }] })).contains("size limit"));
}
