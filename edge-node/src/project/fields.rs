//! Reads typed members out of an object and notes every problem with its place.

use super::Diagnostic;
use super::document::{Document, Entry, Node, Value};

/// One object of a document, read member by member.
pub(crate) struct Fields<'a> {
    pub(crate) document: &'a Document,
    entries: &'a [Entry],
    pub(crate) problems: &'a mut Vec<Diagnostic>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(
        document: &'a Document,
        entries: &'a [Entry],
        problems: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self { document, entries, problems }
    }

    /// The member of that name, whatever it is; null counts as absent.
    pub(crate) fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().rfind(|e| e.key == key && !matches!(e.node.value, Value::Null))
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<String> {
        self.read(key, as_string, "a string")
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        let read = |value: &Value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        };
        self.read(key, read, "true or false")
    }

    pub(crate) fn integer(&mut self, key: &str) -> Option<u64> {
        let read = |value: &Value| match value {
            Value::Number(n) => n.as_u64(),
            _ => None,
        };
        self.read(key, read, "a whole number")
    }

    pub(crate) fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        let read = |value: &Value| match value {
            Value::Array(items) => items.iter().map(|n| as_string(&n.value)).collect(),
            _ => None,
        };
        self.read(key, read, "an array of strings")
    }

    /// A string that must be there.
    pub(crate) fn required(&mut self, key: &str, owner: &Node) -> Option<String> {
        if self.entry(key).is_none() {
            let message = format!("\"{key}\" is missing here");
            self.report(owner, message);
        }
        self.string(key)
    }

    /// The members of an object.
    pub(crate) fn object(&mut self, key: &str) -> Option<&'a [Entry]> {
        let entry = self.entry(key)?;
        match &entry.node.value {
            Value::Object(entries) => Some(entries),
            other => {
                let message = format!("\"{key}\" must be an object, not {}", other.noun());
                self.report(&entry.node, message);
                None
            }
        }
    }

    /// The items of an array.
    pub(crate) fn array(&mut self, key: &str) -> &'a [Node] {
        let Some(entry) = self.entry(key) else { return &[] };
        match &entry.node.value {
            Value::Array(items) => items,
            other => {
                let message = format!("\"{key}\" must be an array, not {}", other.noun());
                self.report(&entry.node, message);
                &[]
            }
        }
    }

    /// The items of an array of objects, each with its members.
    pub(crate) fn objects(&mut self, key: &str) -> Vec<(&'a Node, &'a [Entry])> {
        let mut objects = Vec::new();
        for node in self.array(key) {
            match &node.value {
                Value::Object(entries) => objects.push((node, entries.as_slice())),
                other => {
                    let message = format!("\"{key}\" must hold objects, not {}", other.noun());
                    self.report(node, message);
                }
            }
        }
        objects
    }

    pub(crate) fn report(&mut self, node: &Node, message: impl Into<String>) {
        self.problems.push(self.document.diagnostic(node.span.clone(), message));
    }

    /// A reader of an object further down.
    pub(crate) fn below(&mut self, entries: &'a [Entry]) -> Fields<'_> {
        Fields { document: self.document, entries, problems: self.problems }
    }

    fn read<T>(&mut self, key: &str, read: fn(&Value) -> Option<T>, wanted: &str) -> Option<T> {
        let entry = self.entry(key)?;
        let value = read(&entry.node.value);
        if value.is_none() {
            let message = format!("\"{key}\" must be {wanted}, not {}", entry.node.value.noun());
            self.report(&entry.node, message);
        }
        value
    }
}

fn as_string(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}
