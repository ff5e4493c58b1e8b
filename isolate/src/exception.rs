//! From V8's errors to the exceptions that logs show.

use deno_core::error::JsError;

use crate::invocation::now_ms;
use crate::outcome::Exception;

/// An exception as the log shows it: positions in the author's sources, without the runtime's own frames.
pub(crate) fn exception_of(error: &JsError) -> Exception {
    let mut stack = error.stack.as_deref().map(author_stack);
    // A syntax error has no frames in its stack, but a place.
    let place = error.frames.first().and_then(|frame| {
        Some(format!(
            "{}:{}:{}",
            frame.file_name.as_deref()?,
            frame.line_number?,
            frame.column_number?
        ))
    });
    if let (Some(stack), Some(place)) = (&mut stack, place)
        && !stack.contains("\n    at ")
        && !place.starts_with("ext:")
    {
        stack.push_str("\n    at ");
        stack.push_str(place.trim_start_matches("file:///"));
    }
    Exception {
        name: error.name.clone().unwrap_or_else(|| "Error".to_owned()),
        message: error.message.clone().unwrap_or_else(|| error.exception_message.clone()),
        stack,
        timestamp_ms: now_ms(),
    }
}

fn author_stack(stack: &str) -> String {
    let lines = stack.lines().filter(|line| {
        let own = line.trim_start().starts_with("at ")
            && (line.contains("ext:atoll/") || line.contains("ext:core/"));
        !own
    });
    lines.collect::<Vec<_>>().join("\n").replace("file:///", "")
}
