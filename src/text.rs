//! What others wrote, in messages of ours: logs, tables and errors are one line each, whatever a file or a node says.

/// The most characters of a foreign text that a message repeats.
const MOST: usize = 1000;

/// `text` as one line of bounded length: control characters are escaped, and what is too long is cut.
pub(crate) fn one_line(text: &str) -> String {
    cut(text, MOST)
}

/// As [`one_line`], of about `most` characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let (mut line, mut length) = (String::with_capacity(text.len().min(most)), 0);
    for c in text.chars() {
        if length >= most {
            line.push('…');
            break;
        }
        // Unicode has two line ends that are no control characters.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            let escaped = c.escape_default();
            length += escaped.len();
            line.extend(escaped);
        } else {
            length += 1;
            line.push(c);
        }
    }
    line
}

/// The words of a message that its author broke into lines, on one line.
pub(crate) fn joined(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `text` without the login of a URL that stands in it: in a message about what was put in the wrong place, it would show.
pub(crate) fn without_login(text: &str) -> String {
    let found = text.find("://").and_then(|at| {
        let start = at + 3;
        let end = start + text[start..].rfind('@')?;
        Some(format!("{}<secret>{}", &text[..start], &text[end..]))
    });
    found.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_in_a_url_is_cut_out_and_nothing_else() {
        for (text, shown) in [
            ("redis://me:p@ss@h:1", "redis://<secret>@h:1"),
            (
                "'http://me:pass@h' is unknown",
                "'http://<secret>@h' is unknown",
            ),
            ("redis://h:1", "redis://h:1"),
            ("a@b", "a@b"),
            ("a@b://c", "a@b://c"),
        ] {
            assert_eq!(without_login(text), shown);
        }
    }

    #[test]
    fn line_ends_are_escaped_and_length_is_bounded() {
        assert_eq!(one_line("a\r\n\tb\u{2028}é"), "a\\r\\n\\tb\\u{2028}é");
        for long in ["é".repeat(MOST + 1), "\n".repeat(MOST)] {
            assert_eq!(one_line(&long).chars().count(), MOST + 1);
        }
        assert_eq!(one_line(&"é".repeat(MOST)).chars().count(), MOST);
    }
}
