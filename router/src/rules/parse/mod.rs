//! From a document to compiled rules, with every problem's place.

mod action;
mod condition;
mod guardrail;
mod reader;
mod rule;
mod text;

use std::collections::HashSet;

use serde_json::Value;

use super::error::{RulesError, Step};
use super::facts::{Names, UnitSource, numbered};
use super::murmur3::{BUCKETS, Seed};
use super::rule::{Preview, Rule, State, Variant};
use super::rule_set::{Holdout, Layer, Overlay, RuleSet};
use super::script::SCRIPT;
use action::ACTION_KEYS;
use reader::{Member, Reader, Walk, unknown};
use rule::ONLY_VARIANT;

/// Rules of one set.
pub const RULES_MAX: usize = 1_000;
/// Variants of one rule: a set of them is a word of bits.
pub const VARIANTS_MAX: usize = 64;
/// Layers of one set, and holdouts.
pub const LAYERS_MAX: usize = 100;

/// The layer of rules that name none.
const MAIN_LAYER: &str = "main";

const KEYS: [&str; 6] = ["unit", "preview_token_sha256", "layer", "holdout", "rule", "script"];

/// A set that is being compiled.
#[derive(Default)]
struct Builder {
    reader: Reader,
    names: Names,
    /// Conditions so far, and regular expressions among them.
    conditions: usize,
    regexes: usize,
}

/// A holdout with the names that it holds for.
struct HoldoutDraft {
    name: String,
    holdout: Holdout,
    layers: Option<Vec<String>>,
    rules: Option<Vec<String>>,
}

/// A layer that is being filled.
struct LayerDraft {
    name: String,
    seed: String,
    rules: Vec<usize>,
}

pub(super) fn rule_set(document: &Value, overlay: Overlay) -> Result<RuleSet, RulesError> {
    let mut builder = Builder::default();
    let members = builder.reader.object(document, &KEYS);
    let script = builder.reader.member(&members, "script", Reader::picked);
    let unit = builder.member(&members, "unit", Builder::unit).unwrap_or(UnitSource::Automatic);
    let unit = numbered(&mut builder.names.units, unit);
    let token_sha256 = builder.member(&members, "preview_token_sha256", Builder::digest);
    let mut layers = builder.member(&members, "layer", Builder::layers).unwrap_or_default();
    let mut holdouts: Vec<HoldoutDraft> = builder
        .member(&members, "holdout", |b, value| Some(b.holdouts(value, unit)))
        .unwrap_or_default();
    let drafts = builder
        .member(&members, "rule", |b, value| Some(b.rules(value, unit, &overlay)))
        .unwrap_or_default();
    let mut rules: Vec<Rule> = Vec::with_capacity(drafts.len());
    let mut required = Vec::new();
    for (place, draft) in drafts.into_iter().enumerate() {
        let layer = layer_of(&mut layers, draft.layer.as_deref().unwrap_or(MAIN_LAYER));
        layers[layer].rules.push(place);
        rules.push(Rule { layer, ..draft.rule });
        required.push((draft.index, draft.requires));
    }
    for (place, (index, required)) in required.iter().enumerate() {
        builder.requirements(&mut rules, place, *index, required);
    }
    builder.unique(rules.iter().map(|rule| &*rule.name), "rule");
    builder.limit(layers.len(), LAYERS_MAX, "layers");
    builder.limit(holdouts.len(), LAYERS_MAX, "holdouts");
    builder.attach(&mut holdouts, &layers, &mut rules);
    let set = RuleSet {
        names: builder.names,
        layers: layers
            .into_iter()
            .map(|layer| Layer {
                name: layer.name.into(),
                seed: Seed::new(&layer.seed),
                rules: layer.rules.into(),
            })
            .collect(),
        holdouts: holdouts.into_iter().map(|draft| draft.holdout).collect(),
        open: rules.iter().any(|rule| rule.preview == Preview::Open),
        experiments: rules.iter().filter(|rule| rule.is_experiment).count(),
        rules: rules.into(),
        token_sha256,
        script,
        overlay,
    };
    builder.reader.finish(set)
}

/// Reads what a script decided.
pub(super) fn scripted(decision: &Value) -> Result<Variant, RulesError> {
    let mut builder = Builder::default();
    let known: Vec<&str> = ["variant"].iter().chain(&ACTION_KEYS).copied().collect();
    let members = builder.reader.object(decision, &known);
    let name = builder.reader.member(&members, "variant", Reader::name);
    let name = name.unwrap_or_else(|| ONLY_VARIANT.to_owned());
    let (value, action) = builder.action(&members, SCRIPT, &name, None);
    builder.reader.finish(Variant { name: name.into(), value, action })
}

/// The place of a layer, which is made where no rule has named it before.
fn layer_of(layers: &mut Vec<LayerDraft>, name: &str) -> usize {
    layers.iter().position(|known| known.name == name).unwrap_or_else(|| {
        let seed = format!("layer.{name}");
        layers.push(LayerDraft { name: name.to_owned(), seed, rules: Vec::new() });
        layers.len() - 1
    })
}

impl Walk for Builder {
    fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }
}

impl Builder {
    fn limit(&mut self, count: usize, most: usize, what: &str) {
        if count > most {
            self.reader.report(format!("there are {count} {what}: a set has at most {most}"));
        }
    }

    fn unique<'n>(&mut self, names: impl Iterator<Item = &'n str>, what: &str) {
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name) {
                self.reader.report(format!("two of the {what}s are called {name:?}: rename one"));
            }
        }
    }

    /// `{ cookie = "name" }` or `{ header = "name" }`.
    fn unit(&mut self, value: &Value) -> Option<UnitSource> {
        let members = self.reader.object(value, &["cookie", "header"]);
        let cookie = self.reader.member(&members, "cookie", Reader::cookie_name);
        let header = self.reader.member(&members, "header", Reader::header_name);
        match (cookie, header, members.len()) {
            (Some(cookie), None, 1) => Some(UnitSource::Cookie(cookie.into())),
            (None, Some(header), 1) => Some(UnitSource::Header(header)),
            (_, _, 1) => None,
            _ => {
                self.reader.report("a unit is named by `cookie` or by `header`: write one of them");
                None
            }
        }
    }

    fn digest(&mut self, value: &Value) -> Option<[u8; 32]> {
        let text = self.reader.text(value)?;
        let mut digest = [0; 32];
        if hex::decode_to_slice(text, &mut digest).is_err() {
            self.reader.report(
                "expected 64 hexadecimal digits, the SHA-256 of a token: `atoll rules token` makes one",
            );
            return None;
        }
        Some(digest)
    }

    fn layers(&mut self, value: &Value) -> Option<Vec<LayerDraft>> {
        let layers = self.each(value, "an array of layers", |builder, value| {
            let members = builder.reader.object(value, &["name", "seed"]);
            let name = builder.required_name(&members)?;
            let seed = builder.reader.member(&members, "seed", Reader::name);
            let seed = seed.unwrap_or_else(|| format!("layer.{name}"));
            Some(LayerDraft { name, seed, rules: Vec::new() })
        });
        self.unique(layers.iter().map(|layer| &*layer.name), "layer");
        Some(layers)
    }

    fn holdouts(&mut self, value: &Value, unit: usize) -> Vec<HoldoutDraft> {
        let drafts = self.each(value, "an array of holdouts", |builder, value| {
            let known = ["name", "seed", "percent", "unit", "layers", "rules"];
            let members = builder.reader.object(value, &known);
            let name = builder.required_name(&members)?;
            let percent = builder.reader.member(&members, "percent", Reader::percent);
            if percent.is_none() && !members.iter().any(|(key, _)| *key == "percent") {
                builder.reader.report("`percent` is missing: how many units are held out");
            }
            let own = builder.member(&members, "unit", Self::unit);
            let unit = own.map_or(unit, |own| numbered(&mut builder.names.units, own));
            let seed = builder.reader.member(&members, "seed", Reader::name);
            let seed = Seed::new(&seed.unwrap_or_else(|| format!("holdout.{name}")));
            let end = buckets(percent.unwrap_or(0.0));
            let reader = &mut builder.reader;
            let layers = reader.member(&members, "layers", |r, value| Some(r.texts(value)));
            let rules = reader.member(&members, "rules", |r, value| Some(r.texts(value)));
            Some(HoldoutDraft { name, holdout: Holdout { seed, unit, end }, layers, rules })
        });
        self.unique(drafts.iter().map(|draft| &*draft.name), "holdout");
        drafts
    }

    fn required_name(&mut self, members: &[Member<'_>]) -> Option<String> {
        if !members.iter().any(|(key, _)| *key == "name") {
            self.reader.report("`name` is missing");
        }
        self.reader.member(members, "name", Reader::name)
    }

    /// Tells rules which holdouts hold for them: those that name them or their layer, or nothing at all.
    fn attach(&mut self, holdouts: &mut [HoldoutDraft], layers: &[LayerDraft], rules: &mut [Rule]) {
        let layer_names: Vec<&str> = layers.iter().map(|layer| &*layer.name).collect();
        let rule_names: Vec<String> = rules.iter().map(|rule| rule.name.to_string()).collect();
        let rule_names: Vec<&str> = rule_names.iter().map(String::as_str).collect();
        for (at, draft) in holdouts.iter().enumerate() {
            self.within(Step::Key("holdout".to_owned()), |b| {
                b.within(Step::Index(at), |b| {
                    let known = [("layers", &draft.layers, "layer", &layer_names)];
                    let named = [("rules", &draft.rules, "rule", &rule_names)];
                    for (key, names, what, known) in known.into_iter().chain(named) {
                        for name in names.iter().flatten().filter(|n| !known.contains(&&***n)) {
                            b.within(Step::Key(key.to_owned()), |b| {
                                b.reader.report(unknown(what, name, known));
                            });
                        }
                    }
                });
            });
        }
        for rule in rules {
            let holds = |draft: &HoldoutDraft| {
                let names = |names: &Option<Vec<String>>, name: &str| {
                    names.as_ref().is_some_and(|names| names.iter().any(|known| known == name))
                };
                (draft.layers.is_none() && draft.rules.is_none())
                    || names(&draft.rules, &rule.name)
                    || names(&draft.layers, layer_names[rule.layer])
            };
            let places = holdouts.iter().enumerate().filter(|(_, draft)| holds(draft));
            rule.holdouts = places.map(|(place, _)| place).collect();
        }
    }
}

/// A part of a hundred in buckets.
fn buckets(percent: f64) -> u16 {
    (percent / 100.0 * f64::from(BUCKETS)).round() as u16
}

/// Whether a rule is in force, by its document and by what the node adds.
fn state(enabled: bool, name: &str, overlay: &Overlay) -> State {
    match (overlay.switched_off.contains(name), enabled) {
        (true, _) => State::SwitchedOff,
        (false, true) => State::On,
        (false, false) => State::Disabled,
    }
}
