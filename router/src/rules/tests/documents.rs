//! What the parts of a document mean.

use super::*;

/// Requests that a condition holds for, and others.
fn check(conditions: Value, sent: &[(Sent, bool)]) {
    let set = when(conditions.clone());
    for (sent, expected) in sent {
        let given = !sent.given(&set).is_empty();
        assert_eq!(given, *expected, "{conditions} for {sent:?}");
    }
}

#[test]
fn places_are_compared_in_any_case_and_unknown_ones_are_nowhere() {
    let at = |country: &str| Sent::get("/").country(country);
    let nowhere = || Sent::get("/");
    check(json!({ "country": "de" }), &[(at("DE"), true), (at("AT"), false), (nowhere(), false)]);
    check(json!({ "country": ["DE", "AT"] }), &[(at("AT"), true), (at("CH"), false)]);
    check(json!({ "not": { "country": "DE" } }), &[(at("DE"), false), (nowhere(), true)]);
    check(
        json!({ "country": { "exists": true }, "not": { "country": "DE" } }),
        &[(at("AT"), true), (nowhere(), false)],
    );
    let eu = |eu| Sent { eu, ..Sent::get("/") };
    check(
        json!({ "eu": true }),
        &[(eu(Some(true)), true), (eu(Some(false)), false), (eu(None), false)],
    );
    check(json!({ "eu": false }), &[(eu(Some(false)), true), (eu(None), false)]);
    let asn = |asn| Sent { asn, ..Sent::get("/") };
    check(
        json!({ "asn": 64496 }),
        &[(asn(Some(64496)), true), (asn(Some(1)), false), (asn(None), false)],
    );
    check(json!({ "asn": [1, 2] }), &[(asn(Some(2)), true), (asn(Some(3)), false)]);
    check(
        json!({ "asn": { "gte": 10, "lt": 20 } }),
        &[(asn(Some(10)), true), (asn(Some(20)), false)],
    );
    check(json!({ "asn": { "exists": false } }), &[(asn(None), true), (asn(Some(1)), false)]);
}

#[test]
fn paths_hosts_and_methods() {
    let at = Sent::get;
    check(
        json!({ "path": "/shop" }),
        &[(at("/shop?x"), true), (at("/Shop"), false), (at("/shop/"), false)],
    );
    check(json!({ "path": { "prefix": "/shop" } }), &[(at("/shopping"), true), (at("/"), false)]);
    check(
        json!({ "path": { "suffix": ".png" } }),
        &[(at("/a.png"), true), (at("/a.png/b"), false)],
    );
    check(
        json!({ "path": { "glob": "/a/*/c" } }),
        &[(at("/a/b/c"), true), (at("/a/b/b/c"), false)],
    );
    check(
        json!({ "path": { "glob": "/a/**.js" } }),
        &[(at("/a/b/c.js"), true), (at("/a/c.json"), false)],
    );
    check(
        json!({ "path": { "glob": "/v?" } }),
        &[(at("/v1"), true), (at("/v"), false), (at("/v12"), false)],
    );
    check(
        json!({ "path": { "matches": "^/user/[0-9]+$" } }),
        &[(at("/user/7"), true), (at("/user/x"), false)],
    );
    let host = |host: &str| Sent { host: host.to_owned(), ..at("/") };
    check(
        json!({ "host": "shop.example" }),
        &[(host("SHOP.example:443"), true), (host("example"), false)],
    );
    check(json!({ "host": { "suffix": ".Example" } }), &[(host("a.eXample"), true)]);
    let method = |method| Sent { method, ..at("/") };
    check(
        json!({ "method": ["get", "HEAD"] }),
        &[(method(Method::HEAD), true), (method(Method::POST), false)],
    );
    check(json!({ "scheme": "https" }), &[(at("/"), true)]);
}

#[test]
fn headers_cookies_and_queries() {
    let sent = || {
        Sent::get("/?utm=News%20letter&n=12&n=99&e")
            .header("x-plan", "pro")
            .header("cookie", "a=1; plan=Gold")
            .header("cookie", "b=2=3")
    };
    check(json!({ "header": { "X-Plan": "pro" } }), &[(sent(), true), (Sent::get("/"), false)]);
    check(json!({ "header": { "x-plan": { "contains": "r" } } }), &[(sent(), true)]);
    check(json!({ "header": { "x-none": { "exists": false } } }), &[(sent(), true)]);
    check(json!({ "cookie": { "plan": "Gold", "b": "2=3" } }), &[(sent(), true)]);
    check(json!({ "cookie": { "plan": "gold" } }), &[(sent(), false)]);
    check(json!({ "not": { "cookie": { "seen": "1" } } }), &[(sent(), true)]);
    check(json!({ "query": { "utm": "News letter", "e": { "exists": true } } }), &[(sent(), true)]);
    check(json!({ "query": { "n": { "gt": 11.5, "lte": 12 } } }), &[(sent(), true)]);
    check(json!({ "query": { "utm": { "gt": 0 } } }), &[(sent(), false)]);
}

#[test]
fn languages_devices_and_times() {
    let speaks = |languages: &str| Sent::get("/").header("accept-language", languages);
    check(
        json!({ "language": "de" }),
        &[(speaks("en;q=0.5, de-AT"), true), (speaks("en, de"), false)],
    );
    check(
        json!({ "language": { "accepts": ["fr", "de"] } }),
        &[(speaks("en, de"), true), (speaks("en"), false)],
    );
    check(json!({ "device": "bot" }), &[(Sent::get("/").header("user-agent", "curl/8"), true)]);
    check(json!({ "not": { "device": ["mobile", "tablet"] } }), &[(Sent::get("/"), true)]);
    let time =
        json!({ "time": { "days": ["thu"], "from": "15:00", "to": "16:00", "zone": "+01:00" } });
    let later = Sent { now_ms: NOW_MS + 3_600_000, ..Sent::get("/") };
    check(time, &[(Sent::get("/"), true), (later, false)]);
    check(json!({ "time": { "before": "2026-11-26T14:00:00Z" } }), &[(Sent::get("/"), false)]);
}

#[test]
fn conditions_are_inside_one_another() {
    let conditions = json!({
        "any": [{ "country": "DE" }, { "all": [{ "path": "/a" }, { "not": { "method": "POST" } }] }],
        "not": { "any": [{ "query": { "off": { "exists": true } } }] },
    });
    check(
        conditions,
        &[
            (Sent::get("/").country("DE"), true),
            (Sent::get("/a"), true),
            (Sent::get("/?off").country("DE"), false),
            (Sent { method: Method::POST, ..Sent::get("/a") }, false),
        ],
    );
    check(json!({}), &[(Sent::get("/"), true)]);
    check(json!({ "any": [] }), &[(Sent::get("/"), false)]);
}

#[test]
fn the_first_rule_of_a_layer_decides() {
    let set = rules(json!({ "rule": [
        { "name": "off", "enabled": false },
        { "name": "first", "when": { "path": { "prefix": "/a" } } },
        { "name": "second", "when": { "path": { "prefix": "/" } } },
        { "name": "other", "layer": "other" },
        { "name": "child", "layer": "last", "requires": { "first": "on" } },
    ] }));
    assert_eq!(Sent::get("/a").given(&set), "first=on other=on child=on");
    assert_eq!(Sent::get("/b").given(&set), "second=on other=on");
}

#[test]
fn who_needs_no_draw_needs_no_id() {
    let set = rules(json!({ "rule": [
        { "name": "all" }, { "name": "some", "layer": "x", "percent": 50, "when": { "path": "/draw" } },
    ] }));
    let decision = Sent::get("/").decide(&set);
    assert_eq!((decision.fresh_unit, decision.assigned.len()), (None, 1));
    assert_eq!(Sent::get("/draw").decide(&set).fresh_unit.as_deref(), Some("fresh"));
    assert_eq!(Sent::get("/draw").unit("known").decide(&set).fresh_unit, None);
}

#[test]
fn a_set_says_whether_it_looks_at_time() {
    let time = json!({ "before": "2026-11-26T14:00:00Z" });
    for (rule, expected) in [
        (json!({ "percent": 50 }), false),
        (json!({ "when": { "path": "/" } }), false),
        (json!({ "when": { "not": { "any": [{ "path": "/" }, { "time": time }] } } }), true),
        (
            json!({ "ramp": [
                { "at": "2020-01-01T00:00:00Z", "percent": 5 },
                { "at": "2030-01-01T00:00:00Z", "percent": 50 },
            ] }),
            true,
        ),
    ] {
        let mut named = rule.clone();
        named["name"] = json!("r");
        assert_eq!(rules(json!({ "rule": [named] })).looks_at_time(), expected, "{rule}");
    }
}

#[test]
fn a_set_says_whether_it_acts_on_requests() {
    for (action, expected) in [
        (json!({ "worker": "w" }), true),
        (json!({ "request_headers": { "x-a": false } }), true),
        (json!({ "response_headers": { "x-a": "1" }, "rewrite": "/b" }), false),
    ] {
        let mut named = action.clone();
        named["name"] = json!("r");
        assert_eq!(rules(json!({ "rule": [named] })).acts_on_request(), expected, "{action}");
    }
}

#[test]
fn units_are_named_by_the_set_or_the_rule() {
    let set = rules(json!({
        "unit": { "header": "x-user" },
        "rule": [
            { "name": "a", "variants": [{ "name": "1" }, { "name": "2" }] },
            { "name": "b", "layer": "x", "unit": { "cookie": "c" }, "seed": "a", "variants": [{ "name": "1" }, { "name": "2" }] },
        ],
    }));
    // Bucket 4,544 and bucket 9,430: the units of the two rules differ.
    let sent = Sent::get("/").header("x-user", "1").header("cookie", "c=2; atoll_id=3");
    let units = |sent: &Sent| -> Vec<_> {
        sent.decide(&set).assigned.iter().map(|assigned| assigned.unit.unwrap()).collect()
    };
    assert_eq!(units(&sent), ["1", "2"].map(unit_hash));
    assert_eq!(units(&Sent::get("/")), ["fresh", "fresh"].map(unit_hash));
    let too_long = Sent::get("/").header("x-user", &"x".repeat(513)).unit("3");
    assert_eq!(units(&too_long)[0], unit_hash("3"));
}

#[test]
fn variants_act_and_earlier_layers_have_their_way() {
    let set = rules(json!({ "rule": [
        {
            "name": "a",
            "rewrite": "/b{path}",
            "request_headers": { "x-a": "1", "cookie": false },
            "response_headers": { "x-seen": "a" },
            "variables": { "color": "red" },
        },
        {
            "name": "b",
            "layer": "x",
            "worker": "other",
            "redirect": "/never",
            "request_headers": { "x-a": "2", "x-b": "3" },
            "variables": { "color": "blue", "size": 1 },
            "value": { "deep": true },
        },
    ] }));
    let sent = Sent::get("/p?q=1");
    let decision = sent.decide(&set);
    let path = sent.visit(|visit| set.path(&decision, visit));
    assert_eq!(path, Some(PathEffect::Rewrite("/b/p?q=1".to_owned())));
    let scripted = json!({ "worker": "late", "request_headers": { "x-b": "4", "x-c": "5" } });
    let scripted = Scripted::parse(&scripted).unwrap();
    let effects = set.effects(&decision).with_scripted(&scripted);
    assert_eq!(effects.picked(), Some(&Picked::Worker("other".into())));
    let mut headers = Vec::new();
    effects.request_headers(|h| {
        headers.push((h.name.as_str(), h.value.as_ref().map(|v| v.to_str().unwrap())));
    });
    let expected = [("x-a", Some("1")), ("cookie", None), ("x-b", Some("3")), ("x-c", Some("5"))];
    assert_eq!(headers, expected);
    assert_eq!(Value::from(set.variables(&decision)), json!({ "color": "red", "size": 1 }));
    let details = set.details(&decision);
    assert_eq!(details["a"], json!({ "value": true, "variant": "on", "reason": "STATIC" }));
    assert_eq!(details["b"]["value"], json!({ "deep": true }));
}

#[test]
fn a_redirect_to_the_same_place_is_none() {
    let to = |location: &str, target: &str| {
        let set = rules(json!({ "rule": [{ "name": "r", "redirect": location }] }));
        let sent = Sent::get(target);
        let decision = sent.decide(&set);
        sent.visit(|visit| set.path(&decision, visit)).is_some()
    };
    for (location, target, expected) in [
        ("/a", "/b", true),
        ("/a", "/a", false),
        ("/a", "/a?x", true),
        ("/a{query}", "/a?x", false),
        ("https://shop.example/a#part", "/a", false),
        ("https://{host}", "/", false),
        ("https://other.example{path}", "/a", true),
        ("http://shop.example/a", "/a", true),
    ] {
        assert_eq!(to(location, target), expected, "{location} {target}");
    }
}

#[test]
fn previews_are_for_those_who_may() {
    // SHA-256 of "let me in, please".
    let set = rules(json!({
        "preview_token_sha256": sha256("let me in, please"),
        "rule": [
            { "name": "token", "enabled": false, "variants": [{ "name": "a" }, { "name": "b" }] },
            { "name": "open", "layer": "2", "preview": "open", "percent": 0, "variants": [{ "name": "a" }, { "name": "b" }] },
            { "name": "shut", "layer": "3", "preview": "off", "when": { "path": "/never" } },
            { "name": "off-and-open", "layer": "4", "preview": "open", "enabled": false },
        ],
    }));
    const ASKS: &str = "token=b, open=b,shut=on,off-and-open=on,none=a,open=a";
    let asks = || Sent::get("/").header("atoll-preview", ASKS);
    assert_eq!(asks().given(&set), "open=b");
    let knows = asks().header("atoll-preview-token", "let me in, please");
    assert_eq!(knows.given(&set), "token=b open=b off-and-open=on");
    assert_eq!(asks().header("atoll-preview-token", "let me in").given(&set), "open=b");
    assert_eq!(Sent { trusted: true, ..asks() }.given(&set), "token=b open=b off-and-open=on");
    let link = Sent::get("/?atoll-preview=open%3Da&atoll-preview-token=let+me+in,+please");
    assert_eq!(link.header("cookie", "atoll-preview=open=b").given(&set), "open=a");
    let decision = knows.decide(&set);
    assert!(decision.assigned.iter().all(|assigned| assigned.reason == Reason::Preview));
    assert_eq!(Sent::get("/").header("atoll-preview", "open=x").given(&set), "");
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn reasons_are_told_to_those_who_may_know() {
    let set = rules(json!({
        "holdout": [{ "name": "all", "percent": 100, "rules": ["held"] }],
        "rule": [
            { "name": "off", "enabled": false },
            { "name": "elsewhere", "when": { "country": "DE" } },
            { "name": "held" },
            { "name": "ranged", "range": [0, 0.01] },
            { "name": "few", "percent": 0.01 },
            { "name": "split", "variants": [{ "name": "a" }, { "name": "b" }] },
            { "name": "late" },
            { "name": "child", "layer": "x", "requires": { "split": "b" } },
        ],
    }));
    let sent = Sent::get("/").unit("1").header("atoll-explain", "1");
    assert_eq!(sent.decide(&set).trace.map(|_| ()), None);
    let sent = Sent { trusted: true, ..sent };
    let explained = set.explain(&sent.decide(&set)).unwrap();
    let (layer, holdout) = (bucket("layer.main", "1"), bucket("holdout.all", "1"));
    let (few, split) = (bucket("few", "1"), bucket("split", "1"));
    let variant = if split < 5_000 { "a" } else { "b" };
    let child = if split < 5_000 { ": requirement not met" } else { "=on (STATIC)" };
    assert_eq!(
        explained,
        format!(
            "off: off, elsewhere: conditions do not hold, held: held out (holdout bucket {holdout}), \
             ranged: not in range (layer bucket {layer}), few: no part, bucket {few}, \
             split={variant} (SPLIT, bucket {split}), late: layer taken, child{child}"
        )
    );
}
