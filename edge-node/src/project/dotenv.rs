//! Variables for local development: `.dev.vars`, or else `.env` and its variants. Never deployed.

use std::path::Path;

/// Reads the local variables of a project for an environment, later files overriding earlier ones.
pub fn local_variables(dir: &Path, environment: Option<&str>) -> Vec<(String, String)> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let specific = environment.and_then(|env| read(&format!(".dev.vars.{env}")));
    if let Some(text) = specific.or_else(|| read(".dev.vars")) {
        return parse_dotenv(&text);
    }
    let mut names = vec![".env".to_owned(), ".env.local".to_owned()];
    if let Some(env) = environment {
        names.extend([format!(".env.{env}"), format!(".env.{env}.local")]);
    }
    let mut variables: Vec<(String, String)> = Vec::new();
    for (key, value) in names.iter().filter_map(|n| read(n)).flat_map(|t| parse_dotenv(&t)) {
        variables.retain(|(known, _)| *known != key);
        variables.push((key, value));
    }
    variables
}

/// Parses `KEY=value` lines: comments, `export`, three kinds of quotes, and quoted values that
/// span lines. Lines that make no sense are skipped, as dotenv does.
pub fn parse_dotenv(text: &str) -> Vec<(String, String)> {
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |i| from + i);
    let mut variables = Vec::new();
    let mut pos = 0;
    while pos < text.len() {
        let mut end = line_end(pos);
        if let Some((key, value)) = assignment(&text[pos..end]) {
            let value_at = end - value.len();
            let value = match quoted(&text[value_at..]) {
                Some((value, length)) => {
                    end = line_end(value_at + length);
                    value
                }
                None => value.split(" #").next().unwrap_or_default().trim().to_owned(),
            };
            variables.push((key.to_owned(), value));
        }
        pos = end + 1;
    }
    variables
}

/// Splits a line at its `=`; the value is what follows to the line's very end.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let key = key.trim();
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (!key.is_empty() && key.chars().all(valid)).then(|| (key, value.trim_start()))
}

/// The contents of a quoted value and the length of the whole literal. Only double quotes know
/// escapes.
fn quoted(text: &str) -> Option<(String, usize)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, at + c.len_utf8())),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}
