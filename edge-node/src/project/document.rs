//! One tree for TOML and JSONC, in which every key and value knows its place in the text.

use std::ops::Range;
use std::path::{Path, PathBuf};

use jsonc_parser::ast::Value as JsonAst;
use jsonc_parser::common::Ranged;
use serde_json::Number;
use toml::de::DeValue;

use super::{Diagnostic, ProjectError};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Range<usize>,
}

/// What both formats can say.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Entry>),
}

/// One member of an object.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

/// A parsed configuration file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) root: Vec<Entry>,
}

impl Document {
    /// Reads a file; its extension says the format.
    pub(crate) fn read(path: &Path) -> Result<Self, ProjectError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ProjectError::Read { path: path.to_owned(), source })?;
        Self::parse(path, text)
    }

    /// Parses text as the format that the path's extension names.
    pub(crate) fn parse(path: &Path, text: String) -> Result<Self, ProjectError> {
        let parsed = match path.extension().and_then(|e| e.to_str()) {
            Some("toml") => parse_toml(&text),
            _ => parse_jsonc(&text),
        };
        let invalid = |span: Range<usize>, message: String| {
            ProjectError::Invalid(vec![Diagnostic::at(path, &text, span, message)])
        };
        let root = parsed.map_err(|(span, message)| invalid(span, message))?;
        match root.value {
            Value::Object(root) => Ok(Self { path: path.to_owned(), text, root }),
            other => Err(invalid(root.span, format!("expected an object, found {}", other.noun()))),
        }
    }

    pub(crate) fn diagnostic(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.path, &self.text, span, message)
    }
}

impl Value {
    /// The kind of value, with its article, for messages.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The value without its places.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Number(n) => n.clone().into(),
            Self::String(s) => s.clone().into(),
            Self::Array(items) => items.iter().map(|n| n.value.to_json()).collect(),
            Self::Object(entries) => serde_json::Value::Object(
                entries.iter().map(|e| (e.key.clone(), e.node.value.to_json())).collect(),
            ),
        }
    }
}

type Parsed = Result<Node, (Range<usize>, String)>;

fn parse_toml(text: &str) -> Parsed {
    let root = toml::de::DeTable::parse(text)
        .map_err(|e| (e.span().unwrap_or(0..0), e.message().trim().replace('\n', "; ")))?;
    let span = root.span();
    Ok(Node { value: toml_table(root.get_ref()), span })
}

fn toml_table(table: &toml::de::DeTable<'_>) -> Value {
    Value::Object(
        table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_span: key.span(),
                node: Node { value: toml_value(value.get_ref()), span: value.span() },
            })
            .collect(),
    )
}

fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::String(d.to_string()),
        DeValue::Table(table) => toml_table(table),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| Node { value: toml_value(item.get_ref()), span: item.span() })
                .collect(),
        ),
        DeValue::Integer(i) => {
            let digits = i.as_str().replace('_', "");
            match i64::from_str_radix(&digits, i.radix()) {
                Ok(n) => Value::Number(n.into()),
                Err(_) => Value::String(digits),
            }
        }
        DeValue::Float(f) => {
            let digits = f.as_str().replace('_', "");
            // JSON has no infinities: as text they at least survive.
            match digits.parse().ok().and_then(Number::from_f64) {
                Some(n) => Value::Number(n),
                None => Value::String(digits),
            }
        }
    }
}

fn parse_jsonc(text: &str) -> Parsed {
    let options = jsonc_parser::ParseOptions {
        allow_comments: true,
        allow_loose_object_property_names: false,
        allow_trailing_commas: true,
    };
    let parsed =
        jsonc_parser::parse_to_ast(text, &jsonc_parser::CollectOptions::default(), &options)
            .map_err(|e| {
                let message = e.kind().to_string();
                (e.range().start..e.range().end, lower_first(&message))
            })?;
    let root = parsed.value.ok_or_else(|| (0..0, "the file is empty".to_owned()))?;
    json_node(&root)
}

fn json_node(ast: &JsonAst<'_>) -> Parsed {
    let span = ast.start()..ast.end();
    let value = match ast {
        JsonAst::NullKeyword(_) => Value::Null,
        JsonAst::BooleanLit(b) => Value::Bool(b.value),
        JsonAst::StringLit(s) => Value::String(s.value.to_string()),
        JsonAst::NumberLit(n) => Value::Number(
            n.value.parse().map_err(|_| (span.clone(), format!("{} is not a number", n.value)))?,
        ),
        JsonAst::Array(array) => {
            Value::Array(array.elements.iter().map(json_node).collect::<Result<_, _>>()?)
        }
        JsonAst::Object(object) => Value::Object(
            object
                .properties
                .iter()
                .map(|p| {
                    let key_span = p.name.start()..p.name.end();
                    let key = p.name.as_str().to_owned();
                    Ok(Entry { key, key_span, node: json_node(&p.value)? })
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Node { value, span })
}

fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect::<String>().trim_end_matches('.').to_owned()
}
