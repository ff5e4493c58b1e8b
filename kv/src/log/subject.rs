//! Subjects and the filters that match them, for engines that have none of their own.

/// Whether a filter matches a subject: `*` stands for one token, a last `>` for one or more.
pub(super) fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in filter.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_token_by_token() {
        let check = |filter: &str, subject: &str, expected: bool| {
            assert_eq!(matches(filter, subject), expected, "{filter} {subject}");
        };
        check("a.b", "a.b", true);
        check("a.b", "a.b.c", false);
        check("a.b.c", "a.b", false);
        check("a.*", "a.b", true);
        check("a.*", "a", false);
        check("a.*", "a.b.c", false);
        check("a.*.c", "a.b.c", true);
        check("a.>", "a.b.c", true);
        check("a.>", "a", false);
        check(">", "a", true);
        check("ab.*", "a.b", false);
    }
}
