//! Why no certificate was issued, in the authority's words where it has any.

use std::error::Error;

use atoll_router::TlsError;
use instant_acme::Problem;

use crate::registry::RegistryError;

/// What is kept of an authority's words, in characters.
const WORDS_CHARS_MAX: usize = 600;

/// No certificate was issued.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    /// The authority refuses.
    #[error("the authority says: {0}")]
    Refused(Refusal),
    /// It cannot be reached or understood.
    #[error("the authority cannot be used: {0}")]
    Unusable(String),
    /// It does not ask in the way that is configured.
    #[error("the authority offers no {0} for this name: set tls.acme.challenge to another kind")]
    NoChallenge(&'static str),
    /// The nodes did not get ready to answer.
    #[error("the answer to the authority is not in use everywhere after {0:?}")]
    NotPublished(std::time::Duration),
    /// What was issued is of no use.
    #[error("the certificate that was issued cannot be used: {0}")]
    Unfit(String),
    /// The file of `tls.acme.ca` is of no use.
    #[error("tls.acme.ca: {0}")]
    Roots(#[from] TlsError),
    /// Nothing came of the order in time.
    #[error("the authority has taken too long")]
    TooLong,
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What an authority says.
#[derive(Debug)]
pub(super) struct Refusal {
    words: String,
    kind: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<&Problem> for Refusal {
    fn from(problem: &Problem) -> Self {
        let kind = problem.r#type.clone().unwrap_or_default();
        let mut words = problem.detail.clone().unwrap_or_else(|| "nothing more".to_owned());
        for part in problem.subproblems.iter().filter_map(|part| part.detail.as_deref()) {
            words.push_str("; ");
            words.push_str(part);
        }
        if let Some(name) = kind.rsplit(':').next().filter(|name| !name.is_empty()) {
            words = format!("{words} ({name})");
        }
        Self { words: bounded(&words), kind }
    }
}

impl From<instant_acme::Error> for AcmeError {
    fn from(error: instant_acme::Error) -> Self {
        match &error {
            instant_acme::Error::Api(problem) => Self::Refused(problem.into()),
            instant_acme::Error::Timeout(_) => Self::TooLong,
            other => Self::Unusable(bounded(&causes(other))),
        }
    }
}

impl AcmeError {
    /// Whether the authority wants fewer orders.
    pub(super) fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.kind.ends_with(":rateLimited"))
    }

    /// Whether the authority does not know the account: it must be made anew.
    pub(super) fn is_of_account(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.kind.ends_with(":accountDoesNotExist"))
    }
}

/// The error with what led to it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Foreign words on one line, and not too many.
fn bounded(words: &str) -> String {
    words.chars().filter(|letter| !letter.is_control()).take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authoritys_words_are_told_and_its_limits_understood() {
        let problem = |text: &str| -> AcmeError {
            let problem: Problem = serde_json::from_str(text).unwrap();
            instant_acme::Error::Api(problem).into()
        };
        let error = problem(
            r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too\nmany","status":429}"#,
        );
        assert_eq!(error.to_string(), "the authority says: toomany (rateLimited)");
        assert!(error.is_rate_limit() && !error.is_of_account());
        let error = problem(r#"{"type":"urn:ietf:params:acme:error:accountDoesNotExist"}"#);
        assert!(error.is_of_account());
        let long = problem(&format!(r#"{{"detail":"{}"}}"#, "x".repeat(10_000)));
        assert!(long.to_string().len() < 700);
    }
}
