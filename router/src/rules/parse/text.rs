//! Tests of texts: a string, several, or a table of operators that must all hold.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::super::condition::{Condition, Order, Test};
use super::super::facts::Fact;
use super::Builder;
use super::reader::{Member, Reader, Walk};

/// Regular expressions of one set.
const REGEXES_MAX: usize = 200;
/// What one may take when it is compiled, and when it runs, in bytes.
const REGEX_BYTES_MAX: usize = 256 << 10;
/// How deep its groups are inside one another.
const REGEX_NEST_MAX: u32 = 32;
/// The longest operand, in bytes.
const OPERAND_BYTES_MAX: usize = 1_024;

const OPERATORS: [&str; 12] = [
    "eq", "in", "prefix", "suffix", "contains", "matches", "glob", "exists", "lt", "lte", "gt",
    "gte",
];
const COMPARISONS: [(&str, Order); 4] = [
    ("lt", Order::Less),
    ("lte", Order::LessOrEqual),
    ("gt", Order::Greater),
    ("gte", Order::GreaterOrEqual),
];

const DEVICES: [&str; 4] = ["mobile", "tablet", "desktop", "bot"];
const CONTINENTS: [&str; 7] = ["af", "an", "as", "eu", "na", "oc", "sa"];
const SCHEMES: [&str; 2] = ["http", "https"];

impl Builder {
    pub(super) fn text_tests(&mut self, value: &Value, fact: Fact) -> Vec<Condition> {
        if !value.is_object() {
            let test = match value {
                Value::Array(_) => self.one_of(value, fact),
                _ => self.operand(value, fact).map(Test::Is),
            };
            return test.map(|test| Condition::Text(fact, test)).into_iter().collect();
        }
        let members = self.reader.object(value, &OPERATORS);
        if members.is_empty() {
            self.reader
                .report(format!("an operator is missing: there is {}", OPERATORS.join(", ")));
        }
        let mut all = self.comparisons(&members, |order, number| {
            Condition::Text(fact, Test::Compare(order, number))
        });
        let mut test = |key, read: fn(&mut Self, &Value, Fact) -> Option<Test>| {
            let test = self.member(&members, key, |builder, value| read(builder, value, fact));
            all.extend(test.map(|test| Condition::Text(fact, test)));
        };
        test("eq", |b, value, fact| b.operand(value, fact).map(Test::Is));
        test("in", Self::one_of);
        test("prefix", |b, value, fact| b.part(value, fact).map(Test::Prefix));
        test("suffix", |b, value, fact| b.part(value, fact).map(Test::Suffix));
        test("contains", |b, value, fact| b.part(value, fact).map(Test::Contains));
        test("matches", |b, value, fact| b.regex(value, fact).map(Test::Matches));
        test("glob", |b, value, fact| b.glob(value, fact).map(Test::Matches));
        let exists = self.reader.member(&members, "exists", Reader::boolean);
        all.extend(exists.map(|wanted| Condition::Exists(fact, wanted)));
        all
    }

    /// What comparisons of numbers stand for.
    pub(super) fn comparisons(
        &mut self,
        members: &[Member<'_>],
        condition: impl Fn(Order, f64) -> Condition,
    ) -> Vec<Condition> {
        let any = |reader: &mut Reader, value: &Value| {
            reader.number(value, f64::NEG_INFINITY, f64::INFINITY)
        };
        let found = COMPARISONS.iter().filter_map(|(key, order)| {
            self.reader.member(members, key, any).map(|number| condition(*order, number))
        });
        found.collect()
    }

    /// A whole value, checked against what the fact can be.
    fn operand(&mut self, value: &Value, fact: Fact) -> Option<Box<str>> {
        let text = self.part(value, fact)?;
        let words: &[&str] = match fact {
            Fact::Device => &DEVICES,
            Fact::Continent => &CONTINENTS,
            Fact::Scheme => &SCHEMES,
            Fact::Country if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) => {
                &[]
            }
            Fact::Country => {
                self.reader
                    .report(format!("{text:?} is no country: write its two letters, such as DE"));
                return None;
            }
            Fact::Path if !text.starts_with('/') => {
                self.reader.report(format!("{text:?} is no path: it begins with \"/\""));
                return None;
            }
            _ => &[],
        };
        if !words.is_empty() {
            self.reader.word(&Value::from(&*text), words)?;
        }
        Some(text)
    }

    fn one_of(&mut self, value: &Value, fact: Fact) -> Option<Test> {
        let read = |builder: &mut Self, value| builder.operand(value, fact);
        let mut texts = self.each(value, "an array of strings", read);
        texts.sort_unstable();
        texts.dedup();
        Some(Test::In(texts.into()))
    }

    /// Text in the case in which the fact is compared.
    fn part(&mut self, value: &Value, fact: Fact) -> Option<Box<str>> {
        let mut text = self.reader.text(value)?;
        if text.len() > OPERAND_BYTES_MAX {
            self.reader.report(format!("this has more than {OPERAND_BYTES_MAX} bytes"));
            return None;
        }
        if fact.folds() {
            text.make_ascii_lowercase();
        }
        Some(text.into())
    }

    fn regex(&mut self, value: &Value, fact: Fact) -> Option<Regex> {
        let text = self.reader.text(value)?;
        self.compiled(&text, fact)
    }

    /// `*` is anything but a slash, `**` anything, `?` one character but a slash.
    fn glob(&mut self, value: &Value, fact: Fact) -> Option<Regex> {
        let text = self.reader.text(value)?;
        let (mut pattern, mut characters) = (String::from("^"), text.chars().peekable());
        while let Some(character) = characters.next() {
            match character {
                '*' if characters.next_if_eq(&'*').is_some() => pattern.push_str("(?s:.)*"),
                '*' => pattern.push_str("[^/]*"),
                '?' => pattern.push_str("[^/]"),
                other => pattern.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        pattern.push('$');
        self.compiled(&pattern, fact)
    }

    fn compiled(&mut self, pattern: &str, fact: Fact) -> Option<Regex> {
        self.regexes += 1;
        if self.regexes > REGEXES_MAX {
            self.reader
                .report(format!("a set has at most {REGEXES_MAX} regular expressions and globs"));
            return None;
        }
        let built = RegexBuilder::new(pattern)
            .case_insensitive(fact.folds())
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(REGEX_NEST_MAX)
            .build();
        built
            .map_err(|error| {
                let error = error.to_string();
                let line = error.lines().next_back().unwrap_or_default();
                self.reader.report(format!("{pattern:?} is no regular expression: {line}"));
            })
            .ok()
    }
}
