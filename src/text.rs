//! What others wrote, in messages of ours: logs, tables and errors are one line each, whatever a file or a node says.

use std::fmt::Write as _;

/// The most of a foreign text that a message repeats.
const MOST: usize = 1000;

/// `text` as one line of bounded length: control characters are escaped, and what is too long is cut.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MOST));
    for (at, c) in text.char_indices() {
        if at >= MOST {
            line.push('…');
            break;
        }
        // Unicode has two line ends that are no control characters.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_escaped_and_length_is_bounded() {
        assert_eq!(one_line("a\r\n\tb\u{2028}é"), "a\\r\\n\\tb\\u{2028}é");
        assert_eq!(one_line(&"é".repeat(MOST)).chars().count(), MOST / 2 + 1);
    }
}
