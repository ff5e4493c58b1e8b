//! Reads typed values out of a document, and notes what is wrong with its place.

use serde_json::{Map, Value};

use super::super::error::{PROBLEMS_MAX, RuleProblem, RulesError, Step};

/// The longest name of a rule, variant, layer or holdout, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Where in the document the reading is, and what was wrong so far.
#[derive(Default)]
pub(super) struct Reader {
    path: Vec<Step>,
    problems: Vec<RuleProblem>,
}

/// One member of an object.
pub(super) type Member<'v> = (&'v str, &'v Value);

/// Whoever reads parts of a document, one step deeper at a time.
pub(super) trait Walk: Sized {
    /// What knows where the reading is.
    fn reader(&mut self) -> &mut Reader;

    /// Goes a step down for as long as `read` takes.
    fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.reader().path.push(step);
        let value = read(self);
        self.reader().path.pop();
        value
    }

    /// Reads a member, if it is there.
    fn member<'v, T>(
        &mut self,
        members: &[Member<'v>],
        key: &str,
        read: impl FnOnce(&mut Self, &'v Value) -> Option<T>,
    ) -> Option<T> {
        let (_, value) = members.iter().find(|(found, _)| *found == key)?;
        self.within(Step::Key(key.to_owned()), |walk| read(walk, value))
    }

    /// Reads every item of an array with its place.
    fn each_at<'v, T>(
        &mut self,
        value: &'v Value,
        what: &str,
        mut read: impl FnMut(&mut Self, usize, &'v Value) -> Option<T>,
    ) -> Vec<T> {
        let Value::Array(items) = value else {
            self.reader().expected(what, value);
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items
            .filter_map(|(at, item)| self.within(Step::Index(at), |walk| read(walk, at, item)))
            .collect()
    }

    /// Reads every item of an array.
    fn each<'v, T>(
        &mut self,
        value: &'v Value,
        what: &str,
        mut read: impl FnMut(&mut Self, &'v Value) -> Option<T>,
    ) -> Vec<T> {
        self.each_at(value, what, |walk, _, item| read(walk, item))
    }
}

impl Walk for Reader {
    fn reader(&mut self) -> &mut Reader {
        self
    }
}

impl Reader {
    pub(super) fn finish<T>(self, value: T) -> Result<T, RulesError> {
        if self.problems.is_empty() { Ok(value) } else { Err(RulesError(self.problems)) }
    }

    pub(super) fn report(&mut self, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(RuleProblem { path: self.path.clone(), message: message.into() });
        }
    }

    /// Says what was expected and what is there.
    pub(super) fn expected(&mut self, what: &str, found: &Value) {
        self.report(format!("expected {what}, found {}", shown(found)));
    }

    /// The members of an object, all of which are known.
    pub(super) fn object<'v>(&mut self, value: &'v Value, known: &[&str]) -> Vec<Member<'v>> {
        let members = self.any_object(value);
        for (key, _) in members.iter().filter(|(key, _)| !known.contains(key)) {
            self.within(Step::Key((*key).to_owned()), |reader| {
                reader.report(unknown("key", key, known));
            });
        }
        members
    }

    /// The members of an object whose keys are names.
    pub(super) fn any_object<'v>(&mut self, value: &'v Value) -> Vec<Member<'v>> {
        match value {
            Value::Object(members) => members_of(members),
            other => {
                self.expected("a table", other);
                Vec::new()
            }
        }
    }

    /// One text, or an array of them.
    pub(super) fn texts(&mut self, value: &Value) -> Vec<String> {
        match value {
            Value::String(text) => vec![text.clone()],
            _ => self.each(value, "a string or an array of strings", Self::text),
        }
    }

    pub(super) fn text(&mut self, value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            other => {
                self.expected("a string", other);
                None
            }
        }
    }

    /// A text that names something: it stands in headers, cookies and hashes.
    pub(super) fn name(&mut self, value: &Value) -> Option<String> {
        let name = self.text(value)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
            self.report(format!(
                "{name:?} is no name: write 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" or \".\""
            ));
            return None;
        }
        Some(name)
    }

    pub(super) fn boolean(&mut self, value: &Value) -> Option<bool> {
        if !value.is_boolean() {
            self.expected("true or false", value);
        }
        value.as_bool()
    }

    /// A number within bounds.
    pub(super) fn number(&mut self, value: &Value, least: f64, most: f64) -> Option<f64> {
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let bounds = match most.is_finite() {
                true => format!("a number from {least} to {most}"),
                false => format!("a number of at least {least}"),
            };
            self.expected(if least.is_finite() { &bounds } else { "a number" }, value);
        }
        number
    }

    /// A part of a hundred.
    pub(super) fn percent(&mut self, value: &Value) -> Option<f64> {
        self.number(value, 0.0, 100.0)
    }

    /// One of a few words.
    pub(super) fn word(&mut self, value: &Value, words: &[&str]) -> Option<usize> {
        let text = self.text(value)?;
        let found = words.iter().position(|word| *word == text);
        if found.is_none() {
            self.report(unknown("value", &text, words));
        }
        found
    }
}

fn members_of(members: &Map<String, Value>) -> Vec<Member<'_>> {
    // TOML has no null, and in JSON it stands for what is not there.
    let members = members.iter().filter(|(_, value)| !value.is_null());
    members.map(|(key, value)| (key.as_str(), value)).collect()
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 40;
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(CHARS_MAX) {
                Some((cut, _)) => format!("{}…", &text[..cut]),
                None => text,
            }
        }
    }
}

/// That a word is not known, and which one may have been meant.
pub(super) fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    match nearest(found, known) {
        Some(near) => format!("unknown {what} {found:?}: did you mean {near:?}?"),
        None => format!("unknown {what} {found:?}: there is {}", known.join(", ")),
    }
}

/// The word that differs in the fewest letters, if that is a slip.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let slips_max = (found.chars().count() / 3).clamp(1, 3);
    let slips = known.iter().map(|word| (slips(found, word), *word));
    let best = slips.min_by_key(|(count, _)| *count)?;
    (best.0 <= slips_max).then_some(best.1)
}

/// Letters to add, drop, replace or swap (the optimal string alignment distance), in any case.
fn slips(left: &str, right: &str) -> usize {
    let fold = |text: &str| text.to_lowercase().chars().take(NAME_BYTES_MAX).collect::<String>();
    strsim::osa_distance(&fold(left), &fold(right))
}
