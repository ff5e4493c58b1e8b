//! Conditions: a table whose members must all hold.

use serde_json::Value;

use super::super::condition::Condition;
use super::super::error::Step;
use super::super::facts::{Fact, numbered};
use super::super::instant::{DAYS, Window, parse_clock, parse_offset};
use super::super::murmur3::{BUCKETS, Seed};
use super::reader::{Member, Reader, Walk};
use super::{Builder, buckets};

/// Conditions of one set, those inside others too.
const CONDITIONS_MAX: usize = 10_000;
/// How deep conditions are inside one another.
const DEPTH_MAX: usize = 16;

/// What conditions are about, beside what has names of its own.
const FACTS: [(&str, Fact); 12] = [
    ("path", Fact::Path),
    ("host", Fact::Host),
    ("method", Fact::Method),
    ("scheme", Fact::Scheme),
    ("device", Fact::Device),
    ("country", Fact::Country),
    ("continent", Fact::Continent),
    ("region", Fact::Region),
    ("region_code", Fact::RegionCode),
    ("city", Fact::City),
    ("postal_code", Fact::PostalCode),
    ("timezone", Fact::Timezone),
];
const OTHERS: [&str; 11] =
    ["asn", "eu", "language", "header", "cookie", "query", "time", "percent", "all", "any", "not"];

/// The rule that conditions belong to.
#[derive(Clone, Copy)]
struct Owner<'a> {
    unit: usize,
    seed: &'a str,
    depth: usize,
}

impl Builder {
    /// A rule's `when`.
    pub(super) fn conditions(
        &mut self,
        value: &Value,
        unit: usize,
        seed: &str,
    ) -> Option<Condition> {
        Some(self.table(value, Owner { unit, seed, depth: 0 }))
    }

    fn table(&mut self, value: &Value, owner: Owner<'_>) -> Condition {
        if owner.depth > DEPTH_MAX {
            self.reader
                .report(format!("conditions are at most {DEPTH_MAX} deep inside one another"));
            return Condition::All(Box::default());
        }
        let known: Vec<&str> = FACTS.iter().map(|(name, _)| *name).chain(OTHERS).collect();
        let members = self.reader.object(value, &known);
        let mut all = Vec::new();
        for (key, value) in members {
            let read = self.within(Step::Key(key.to_owned()), |b| b.condition(key, value, owner));
            all.extend(read);
        }
        self.conditions += all.len();
        if self.conditions > CONDITIONS_MAX {
            self.reader.report(format!("a set has at most {CONDITIONS_MAX} conditions"));
            return Condition::All(Box::default());
        }
        match all.len() {
            1 => all.remove(0),
            _ => Condition::All(all.into()),
        }
    }

    /// What a member of a table stands for: nothing, or conditions that must all hold.
    fn condition(&mut self, key: &str, value: &Value, owner: Owner<'_>) -> Vec<Condition> {
        let below = Owner { depth: owner.depth + 1, ..owner };
        if let Some((_, fact)) = FACTS.iter().find(|(name, _)| *name == key) {
            return self.text_tests(value, *fact);
        }
        let found = match key {
            "all" => Some(Condition::All(self.tables(value, below))),
            "any" => Some(Condition::Any(self.tables(value, below))),
            "not" => Some(Condition::Not(Box::new(self.table(value, below)))),
            "asn" => return self.asn(value),
            "eu" => self.reader.boolean(value).map(Condition::Eu),
            "language" => return self.languages(value),
            "time" => Some(Condition::Time(self.reader.window(value))),
            "percent" => self.bucket(value, owner),
            "header" | "cookie" | "query" => return self.named(key, value),
            _ => None,
        };
        found.into_iter().collect()
    }

    fn tables(&mut self, value: &Value, owner: Owner<'_>) -> Box<[Condition]> {
        let read = |builder: &mut Self, value| Some(builder.table(value, owner));
        self.each(value, "an array of tables of conditions", read).into()
    }

    /// `{ name = test, other = test }`.
    fn named(&mut self, key: &str, value: &Value) -> Vec<Condition> {
        let mut all = Vec::new();
        for (name, value) in self.reader.any_object(value) {
            let tests = self.within(Step::Key(name.to_owned()), |builder| {
                let fact = builder.named_fact(key, name)?;
                Some(builder.text_tests(value, fact))
            });
            all.extend(tests.into_iter().flatten());
        }
        all
    }

    fn named_fact(&mut self, key: &str, name: &str) -> Option<Fact> {
        Some(match key {
            "header" => {
                let name = self.reader.checked_header_name(name)?;
                Fact::Header(numbered(&mut self.names.headers, name))
            }
            "cookie" if !self.reader.checked_cookie_name(name) => return None,
            "cookie" => Fact::Cookie(numbered(&mut self.names.cookies, name.into())),
            _ => Fact::Query(numbered(&mut self.names.queries, name.into())),
        })
    }

    /// A language or several, or `{ accepts = … }`.
    fn languages(&mut self, value: &Value) -> Vec<Condition> {
        let ranges = |reader: &mut Reader, value: &Value| {
            let texts = reader.texts(value);
            let tag = |text: &str| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            if let Some(wrong) = texts.iter().find(|text| !tag(text)) {
                reader.report(format!("{wrong:?} is no language: write a tag such as de or de-AT"));
            }
            Some(texts.into_iter().map(Into::into).collect::<Box<[Box<str>]>>())
        };
        if !value.is_object() {
            return ranges(&mut self.reader, value).map(Condition::Language).into_iter().collect();
        }
        let members = self.reader.object(value, &["eq", "in", "accepts"]);
        let mut read = |key| self.reader.member(&members, key, ranges);
        let preferred = [read("eq"), read("in")].into_iter().flatten().map(Condition::Language);
        let preferred: Vec<_> = preferred.collect();
        preferred.into_iter().chain(read("accepts").map(Condition::Accepts)).collect()
    }

    /// A number, several, or a table of comparisons.
    fn asn(&mut self, value: &Value) -> Vec<Condition> {
        let number = |reader: &mut Reader, value: &Value| {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            if number.is_none() {
                reader.expected("the number of a network, such as 64496", value);
            }
            number
        };
        let numbers = |reader: &mut Reader, value: &Value| match value {
            Value::Array(_) => Some(reader.each(value, "numbers", number)),
            _ => number(reader, value).map(|number| vec![number]),
        };
        if !value.is_object() {
            let found = numbers(&mut self.reader, value);
            return found.map(|numbers| Condition::Asn(numbers.into())).into_iter().collect();
        }
        let known = ["eq", "in", "exists", "lt", "lte", "gt", "gte"];
        let members = self.reader.object(value, &known);
        let mut all = self.comparisons(&members, Condition::AsnCompare);
        for key in ["eq", "in"] {
            let found = self.reader.member(&members, key, numbers);
            all.extend(found.map(|numbers| Condition::Asn(numbers.into())));
        }
        all.extend(
            self.reader.member(&members, "exists", Reader::boolean).map(Condition::AsnExists),
        );
        all
    }

    /// A percentage, or `{ gte = 10, lt = 20, seed = "…" }`.
    fn bucket(&mut self, value: &Value, owner: Owner<'_>) -> Option<Condition> {
        let seed = |text: &str| Seed::new(text);
        let own = format!("{}.when", owner.seed);
        if !value.is_object() {
            let to = buckets(self.reader.percent(value)?);
            return Some(Condition::Bucket { unit: owner.unit, seed: seed(&own), from: 0, to });
        }
        let members = self.reader.object(value, &["gte", "lt", "seed"]);
        let from = self.reader.member(&members, "gte", Reader::percent).map_or(0, buckets);
        let to = self.reader.member(&members, "lt", Reader::percent).map_or(BUCKETS, buckets);
        let text = self.reader.member(&members, "seed", Reader::name).unwrap_or(own);
        Some(Condition::Bucket { unit: owner.unit, seed: seed(&text), from, to })
    }
}

impl Reader {
    /// `{ after, before, days, from, to, zone }`.
    fn window(&mut self, value: &Value) -> Window {
        let members = self.object(value, &["after", "before", "days", "from", "to", "zone"]);
        let after_ms = self.member(&members, "after", Self::instant).unwrap_or(0);
        let before_ms = self.member(&members, "before", Self::instant).unwrap_or(u64::MAX);
        if after_ms >= before_ms {
            self.report("`after` must come before `before`: nothing lies between them");
        }
        let days = self.member(&members, "days", |reader, value| {
            let days = reader.each(value, "an array of days", |r, value| r.word(value, &DAYS));
            Some(days.into_iter().fold(0, |bits, day| bits | 1 << day))
        });
        let from = self.clock(&members, "from");
        let to = self.clock(&members, "to");
        let offset = self.member(&members, "zone", |reader, value| {
            let text = reader.text(value)?;
            let offset = parse_offset(&text);
            if offset.is_none() {
                reader
                    .report(format!("{text:?} is no offset from UTC: write Z or one like +01:00"));
            }
            offset
        });
        let hours =
            (from.is_some() || to.is_some()).then(|| (from.unwrap_or(0), to.unwrap_or(24 * 60)));
        let (days, offset) = (days.unwrap_or(0b0111_1111), offset.unwrap_or(0));
        Window { after_ms, before_ms, days, hours, offset }
    }

    fn clock(&mut self, members: &[Member<'_>], key: &str) -> Option<u16> {
        self.member(members, key, |reader, value| {
            let text = reader.text(value)?;
            let clock = parse_clock(&text);
            if clock.is_none() {
                reader.report(format!("{text:?} is no time of day: write it as 09:30"));
            }
            clock
        })
    }
}
