//! Plain JavaScript in one file: uploaded as it is, without a bundler.

use super::{Bundle, BundleError, BundleRequest, error};
use crate::registry::{Module, ModuleKind, ScriptFormat};

/// The entry as the only module, when it imports nothing and nothing has to be rewritten in it.
/// When in doubt there is no answer, and the bundler decides.
pub(super) fn as_is(request: BundleRequest<'_>) -> Result<Option<Bundle>, BundleError> {
    let settings = &request.project.bundle;
    let extension = request.entry.extension().and_then(|e| e.to_str());
    let rewritten = request.minify
        || settings.minify
        || !settings.define.is_empty()
        || !settings.alias.is_empty()
        || settings.find_additional_modules == Some(true);
    if rewritten || !matches!(extension, Some("js" | "mjs")) {
        return Ok(None);
    }
    let bytes = error::read(request.entry)?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(None) };
    let Some(code) = code_only(text) else { return Ok(None) };
    let words = ["import", "require", "process", "from", "module", "exports"];
    // Markup in code is JSX: `<` directly before a name, `/` or `>`.
    let markup = code.as_bytes().windows(2).any(|pair| {
        pair[0] == b'<' && (pair[1].is_ascii_alphabetic() || matches!(pair[1], b'/' | b'>'))
    });
    if markup || words.iter().any(|word| has_word(&code, word)) {
        return Ok(None);
    }
    let format = format(text);
    let kind = match format {
        ScriptFormat::Modules => ModuleKind::EsModule,
        ScriptFormat::ServiceWorker => ModuleKind::CommonJs,
    };
    let name = request.entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(Bundle {
        format,
        main_module: name.clone(),
        modules: vec![Module { name, kind, bytes }],
        inputs: vec![request.entry.to_owned()],
        warnings: String::new(),
    }))
}

/// The syntax that plain JavaScript is written in: modules export something.
pub(super) fn format(text: &str) -> ScriptFormat {
    let code = code_only(text).unwrap_or_else(|| text.to_owned());
    match has_word(&code, "export") {
        true => ScriptFormat::Modules,
        false => ScriptFormat::ServiceWorker,
    }
}

/// The text without comments and the contents of strings; none when it cannot be told apart with
/// certainty (regular expressions and template substitutions need a real parser).
fn code_only(text: &str) -> Option<String> {
    let mut code = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' | '`' => {
                code.push(c);
                loop {
                    match chars.next()? {
                        '\\' => drop(chars.next()),
                        '$' if c == '`' && chars.peek() == Some(&'{') => return None,
                        '\n' if c != '`' => return None,
                        end if end == c => break,
                        _ => {}
                    }
                }
                code.push(c);
            }
            '/' => match chars.peek() {
                Some('/') => while chars.next_if(|c| *c != '\n').is_some() {},
                Some('*') => {
                    chars.next();
                    let mut last = ' ';
                    loop {
                        match chars.next()? {
                            '/' if last == '*' => break,
                            c => last = c,
                        }
                    }
                    code.push(' ');
                }
                _ => return None,
            },
            c => code.push(c),
        }
    }
    Some(code)
}

fn has_word(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_from_the_code() {
        for (text, expected) in [
            ("export default {}", ScriptFormat::Modules),
            ("// export default\naddEventListener('fetch', f)", ScriptFormat::ServiceWorker),
            ("const s = 'export'; addEventListener(s, f)", ScriptFormat::ServiceWorker),
            ("export { a as default }", ScriptFormat::Modules),
        ] {
            assert_eq!(format(text), expected, "{text}");
        }
    }

    #[test]
    fn code_is_told_from_text() {
        for (text, expected) in [
            ("a /* import */ b // import", Some("a   b ")),
            ("'im\\'port' + \"x\"", Some("'' + \"\"")),
            ("`plain`", Some("``")),
            ("`${x}`", None),
            ("a / b", None),
            ("'open", None),
        ] {
            assert_eq!(code_only(text).as_deref(), expected, "{text}");
        }
    }
}
