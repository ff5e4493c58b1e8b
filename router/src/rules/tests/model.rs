//! The rules as docs/rules.md words them, naively: read from the document at every request, with a hash and an
//! allotment of its own. What is compiled must agree on random documents and requests.

use proptest::prelude::*;
use serde_json::Map;

use super::*;

/// MurmurHash3 x86 32, byte by byte.
fn murmur3(bytes: &[u8]) -> u32 {
    let mut hash: u32 = 0;
    let scramble =
        |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    for chunk in bytes.chunks(4) {
        let word = chunk.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash ^= scramble(word);
        if chunk.len() == 4 {
            hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
        }
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

fn model_bucket(seed: &str, unit: &str) -> f64 {
    ((u64::from(murmur3(format!("{seed}:{unit}").as_bytes())) * 10_000) >> 32) as f64
}

/// What the model knows of a request.
struct Model<'a> {
    document: &'a Value,
    sent: &'a Sent,
}

impl Model<'_> {
    fn unit(&self, source: &Value) -> String {
        let cookie = |name: &str| {
            let texts =
                self.sent.headers.get_all("cookie").iter().map(|text| text.to_str().unwrap());
            let pairs =
                texts.flat_map(|text| text.split("; ")).map(|pair| pair.split_once('=').unwrap());
            pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
        };
        let named = match (&source["cookie"], &source["header"]) {
            (Value::String(name), _) => cookie(name),
            (_, Value::String(name)) => {
                self.sent.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
            }
            _ => None,
        };
        named.or_else(|| cookie("atoll_id")).unwrap_or("fresh".to_owned())
    }

    fn fact(&self, key: &str, name: Option<&str>) -> Option<String> {
        let sent = self.sent;
        match (key, name) {
            ("path", _) => Some(sent.path.clone()),
            ("method", _) => Some(sent.method.as_str().to_lowercase()),
            ("host", _) => Some(sent.host.to_lowercase()),
            ("country", _) => sent.country.as_ref().map(|country| country.to_lowercase()),
            ("header", Some(name)) => {
                sent.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
            }
            ("query", Some(name)) => {
                let pairs = sent.query.as_deref().unwrap_or("").split('&');
                pairs
                    .filter_map(|pair| pair.split_once('='))
                    .find(|(n, _)| *n == name)
                    .map(|p| p.1.to_owned())
            }
            _ => unreachable!("the documents have no {key}"),
        }
    }

    fn test(&self, key: &str, fact: Option<String>, test: &Value) -> bool {
        let folded = |value: &Value| {
            let text = value.as_str().unwrap().to_owned();
            if matches!(key, "method" | "host" | "country") { text.to_lowercase() } else { text }
        };
        let Value::Object(operators) = test else {
            return match test {
                Value::Array(all) => all.iter().any(|one| fact.as_ref() == Some(&folded(one))),
                one => fact == Some(folded(one)),
            };
        };
        operators.iter().all(|(operator, operand)| match (operator.as_str(), &fact) {
            ("exists", fact) => fact.is_some() == operand.as_bool().unwrap(),
            (_, None) => false,
            ("prefix", Some(fact)) => fact.starts_with(&folded(operand)),
            ("suffix", Some(fact)) => fact.ends_with(&folded(operand)),
            ("contains", Some(fact)) => fact.contains(&folded(operand)),
            ("lt", Some(fact)) => fact.parse().is_ok_and(|n: f64| n < operand.as_f64().unwrap()),
            ("gte", Some(fact)) => fact.parse().is_ok_and(|n: f64| n >= operand.as_f64().unwrap()),
            (other, _) => unreachable!("the documents have no {other}"),
        })
    }

    fn holds(&self, conditions: &Value, seed: &str, unit: &str) -> bool {
        let Value::Object(members) = conditions else { return true };
        members.iter().all(|(key, value)| match key.as_str() {
            "all" => value.as_array().unwrap().iter().all(|one| self.holds(one, seed, unit)),
            "any" => value.as_array().unwrap().iter().any(|one| self.holds(one, seed, unit)),
            "not" => !self.holds(value, seed, unit),
            "percent" => {
                model_bucket(&format!("{seed}.when"), unit) < value.as_f64().unwrap() * 100.0
            }
            "header" | "query" => value
                .as_object()
                .unwrap()
                .iter()
                .all(|(name, test)| self.test(key, self.fact(key, Some(name)), test)),
            _ => self.test(key, self.fact(key, None), value),
        })
    }

    /// The variant that a rule gives, when its layer comes to it.
    fn variant(&self, rule: &Value, given: &Map<String, Value>) -> Option<String> {
        let name = rule["name"].as_str().unwrap();
        let seed = rule["seed"].as_str().unwrap_or(name);
        let source = if rule["unit"].is_null() { &self.document["unit"] } else { &rule["unit"] };
        let unit = self.unit(source);
        let required = rule["requires"].as_object().into_iter().flatten();
        let met = required.into_iter().all(|(parent, wanted)| {
            let found = given.get(parent);
            found.is_some_and(|found| {
                found == wanted || wanted.as_array().is_some_and(|w| w.contains(found))
            })
        });
        if rule["enabled"] == false || !met || !self.holds(&rule["when"], seed, &unit) {
            return None;
        }
        let layer = rule["layer"].as_str().unwrap_or("main");
        if let Some(range) = rule["range"].as_array() {
            let bucket = model_bucket(&format!("layer.{layer}"), &unit);
            if bucket < range[0].as_f64().unwrap() * 100.0
                || bucket >= range[1].as_f64().unwrap() * 100.0
            {
                return None;
            }
        }
        for holdout in self.document["holdout"].as_array().into_iter().flatten() {
            let names = |key: &str, name: &str| {
                holdout[key].as_array().is_some_and(|names| names.iter().any(|found| found == name))
            };
            let everywhere = holdout["layers"].is_null() && holdout["rules"].is_null();
            if everywhere || names("layers", layer) || names("rules", name) {
                let seed = format!("holdout.{}", holdout["name"].as_str().unwrap());
                let bucket = model_bucket(&seed, &self.unit(&self.document["unit"]));
                if bucket < holdout["percent"].as_f64().unwrap() * 100.0 {
                    return None;
                }
            }
        }
        self.drawn(rule, model_bucket(seed, &unit))
    }

    /// Variants one after the other from bucket 0. The documents' weights divide the buckets without a rest.
    fn drawn(&self, rule: &Value, bucket: f64) -> Option<String> {
        let percent = rule["percent"].as_f64().unwrap_or(100.0);
        let on = [json!({ "name": "on" })];
        let variants = rule["variants"].as_array().map_or(&on[..], Vec::as_slice);
        let weight = |variant: &Value| variant["weight"].as_f64().unwrap_or(1.0);
        let sum: f64 = variants.iter().map(weight).sum();
        let mut end = 0.0;
        let found = variants.iter().find(|variant| {
            end += weight(variant) / sum * percent * 100.0;
            bucket < end.round()
        });
        found.map(|variant| variant["name"].as_str().unwrap().to_owned())
    }

    fn given(&self) -> String {
        let rules = self.document["rule"].as_array().unwrap();
        let layer = |rule: &Value| rule["layer"].as_str().unwrap_or("main").to_owned();
        let mut layers: Vec<String> = Vec::new();
        for rule in rules {
            if !layers.contains(&layer(rule)) {
                layers.push(layer(rule));
            }
        }
        let mut given = Map::new();
        for name in layers {
            for rule in rules.iter().filter(|rule| layer(rule) == name) {
                if let Some(variant) = self.variant(rule, &given) {
                    given.insert(rule["name"].as_str().unwrap().to_owned(), variant.into());
                    break;
                }
            }
        }
        let given =
            given.iter().map(|(rule, variant)| format!("{rule}={}", variant.as_str().unwrap()));
        given.collect::<Vec<_>>().join(" ")
    }
}

fn any_test() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec!["a", "B", "/a", "/a/b", "/", "5", "12", ""]);
    prop_oneof![
        text.clone().prop_map(Value::from),
        prop::collection::vec(text.clone(), 0..4).prop_map(Value::from),
        (prop::sample::select(vec!["prefix", "suffix", "contains"]), text)
            .prop_map(|(operator, text)| json!({ operator: text })),
        (prop::sample::select(vec!["lt", "gte"]), 0..15).prop_map(|(o, n)| json!({ o: n })),
        any::<bool>().prop_map(|exists| json!({ "exists": exists })),
    ]
}

/// Paths begin with a slash.
fn path_test() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec!["/a", "/a/b", "/"]).prop_map(Value::from),
        any_test().prop_filter("paths begin with a slash", Value::is_object),
    ]
}

fn any_conditions() -> impl Strategy<Value = Value> {
    let named = || prop::sample::select(vec!["a", "b"]);
    let countries = || prop::sample::select(vec!["DE", "at"]);
    let one = prop_oneof![
        path_test().prop_map(|test| json!({ "path": test })),
        any_test().prop_map(|test| json!({ "host": test })),
        prop::sample::select(vec!["get", "POST"]).prop_map(|method| json!({ "method": method })),
        countries().prop_map(|country| json!({ "country": country })),
        any::<bool>().prop_map(|exists| json!({ "country": { "exists": exists } })),
        (named(), any_test()).prop_map(|(name, test)| json!({ "header": { name: test } })),
        (named(), any_test()).prop_map(|(name, test)| json!({ "query": { name: test } })),
        (0..=100).prop_map(|percent| json!({ "percent": percent })),
        Just(json!({})),
    ];
    one.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| json!({ "all": all })),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|any| json!({ "any": any })),
            inner.prop_map(|one| json!({ "not": one })),
        ]
    })
}

/// One rule without a name, and whether it requires something of the first rule.
fn any_rule() -> impl Strategy<Value = (Value, bool)> {
    let variants = prop_oneof![
        Just(Value::Null),
        prop::sample::select(vec![vec![1, 1], vec![1, 3], vec![0, 5, 5], vec![2, 3, 5]]).prop_map(
            |weights| {
                let variants = weights.iter().zip(["x", "y", "z"]);
                variants.map(|(weight, name)| json!({ "name": name, "weight": weight })).collect()
            }
        ),
    ];
    let unit = prop::sample::select(vec![
        Value::Null,
        json!({ "cookie": "uid" }),
        json!({ "header": "a" }),
    ]);
    let range = prop::option::weighted(
        0.3,
        (0..100_u32).prop_flat_map(|from| (Just(from), from + 1..=100)),
    );
    let layer = prop::sample::select(vec![Value::Null, json!("one"), json!("two")]);
    let percent =
        prop::sample::select(vec![Value::Null, json!(0), json!(10), json!(50), json!(100)]);
    (
        (any_conditions(), any::<bool>(), variants, unit),
        (range, layer, percent, prop::bool::weighted(0.9), any::<bool>()),
    )
        .prop_map(
            |((when, has_when, variants, unit), (range, layer, percent, enabled, requires))| {
                let when = if has_when { when } else { Value::Null };
                let range = range.map(|(from, to)| json!([from, to]));
                let rule = json!({
                    "when": when, "variants": variants, "unit": unit, "range": range,
                    "layer": layer, "percent": percent, "enabled": enabled,
                });
                (rule, requires)
            },
        )
}

fn any_document() -> impl Strategy<Value = Value> {
    let holdout = prop::option::of((0..40, prop::sample::select(vec!["layers", "rules", "none"])));
    (prop::collection::vec(any_rule(), 1..8), holdout, any::<bool>()).prop_map(
        |(drafts, holdout, named_unit)| {
            let mut rules: Vec<Value> = Vec::new();
            for (at, (mut rule, requires)) in drafts.into_iter().enumerate() {
                rule["name"] = json!(format!("r{at}"));
                // The first rule's layer is the earliest.
                if requires && at > 0 && rule["layer"] != rules[0]["layer"] {
                    let variant = if rules[0]["variants"].is_null() { "on" } else { "y" };
                    rule["requires"] = json!({ "r0": [variant] });
                }
                rules.push(rule);
            }
            let mut document = json!({ "rule": rules });
            if let Some((percent, held)) = holdout {
                let layer = rules_layer(&document);
                document["holdout"] = match held {
                    "layers" => json!([{ "name": "h", "percent": percent, "layers": [layer] }]),
                    "rules" => json!([{ "name": "h", "percent": percent, "rules": ["r0"] }]),
                    _ => json!([{ "name": "h", "percent": percent }]),
                };
            }
            if named_unit {
                document["unit"] = json!({ "cookie": "uid" });
            }
            document
        },
    )
}

/// The name of the first rule's layer.
fn rules_layer(document: &Value) -> String {
    document["rule"][0]["layer"].as_str().unwrap_or("main").to_owned()
}

fn any_request() -> impl Strategy<Value = Sent> {
    let value = || prop::option::of(prop::sample::select(vec!["a", "B", "5", "12", ""]));
    let path = prop::sample::select(vec!["/", "/a", "/a/b", "/b"]);
    let country = prop::option::of(prop::sample::select(vec!["DE", "AT", "FR"]));
    let ids = (prop::option::of(0..1_000_000_u32), prop::option::of(0..1_000_000_u32));
    (path, country, any::<bool>(), value(), value(), ids, prop::sample::select(vec!["a", "B.a"]))
        .prop_map(|(path, country, post, header, query, (id, uid), host)| {
            let target = query.map_or(path.to_owned(), |value| format!("{path}?a={value}&b=5"));
            let mut sent = Sent::get(&target);
            sent.host = host.to_owned();
            sent.country = country.map(str::to_owned);
            if post {
                sent.method = Method::POST;
            }
            if let Some(value) = header.filter(|value| !value.is_empty()) {
                sent = sent.header("a", value);
            }
            let id = id.map(|id| format!("atoll_id={id}"));
            let cookies: Vec<_> =
                id.into_iter().chain(uid.map(|uid| format!("uid={uid}"))).collect();
            if cookies.is_empty() { sent } else { sent.header("cookie", &cookies.join("; ")) }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn what_is_compiled_agrees_with_the_words(
        document in any_document(),
        requests in prop::collection::vec(any_request(), 1..8),
    ) {
        let set = rules(document.clone());
        for sent in &requests {
            let model = Model { document: &document, sent };
            prop_assert_eq!(sent.given(&set), model.given(), "{} for {:?}", document, sent);
            // Whoever wants reasons gets the same decision.
            let explained = Sent { trusted: true, ..sent.clone().header("atoll-explain", "1") };
            prop_assert_eq!(explained.given(&set), sent.given(&set));
        }
    }
}
