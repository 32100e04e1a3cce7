//! Text of others in the exporter's messages: logs and errors are one line of bounded length, whatever a file or a node says.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};
use sha2::{Digest as _, Sha256};

/// How similar an unknown name must be to a known one that is suggested, from 0 to 1.
const LEAST_ALIKE: f64 = 0.6;

/// The most bytes of a foreign text in a label, a message or a log line.
pub(crate) const MOST: usize = 512;

/// Hexadecimal digits of the SHA-256 at the end of a text that was cut: enough that nobody can make two texts that share them.
const DIGITS: usize = 32;

/// The length of that end: the mark and the digits.
pub(crate) const END: usize = '…'.len_utf8() + DIGITS;

/// What is left of a text that is cut. With its end it stays within [`MOST`], even where the mark is written as three
/// escapes of four bytes, as in keys that look as if they were cut.
const LEFT: usize = MOST - 3 * 4 - DIGITS;

/// The characters that need no escape in a path segment (RFC 3986 unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `text` as a segment of a path, or as a value in a query.
pub(crate) fn percent_encoded(text: &[u8]) -> PercentEncode<'_> {
    percent_encode(text, SEGMENT)
}

/// `text`. If it is longer than [`MOST`], its beginning, `…`, and the first digits of the SHA-256 of the whole.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST {
        return Cow::Borrowed(text);
    }
    Cow::Owned(cut_to(text, text.as_bytes()))
}

/// The beginning of `text`, `…`, and the first digits of the SHA-256 of `whole`.
pub(crate) fn cut_to(text: &str, whole: &[u8]) -> String {
    let mut ends = (0..=LEFT.min(text.len())).rev();
    let end = ends.find(|at| text.is_char_boundary(*at));
    let mut out = text[..end.unwrap_or(0)].to_owned();
    out.push('…');
    out.push_str(&hex(&Sha256::digest(whole)[..DIGITS / 2]));
    out
}

/// `bytes` as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(bytes))
}

/// Whether `text` ends as [`cut`] ends one.
pub(crate) fn is_cut(text: &str) -> bool {
    let Some(start) = text.len().checked_sub(DIGITS) else {
        return false;
    };
    let digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    text.is_char_boundary(start) && text[..start].ends_with('…') && text[start..].bytes().all(digit)
}

/// `text` as one line of bounded length: control characters are escaped, and what is too long is [`cut`].
pub(crate) fn one_line(text: &str) -> String {
    // One character more than fits, so that the length shows that it does not.
    let line: String = text.chars().take(MOST + 1).flat_map(escaped).collect();
    if line.len() > MOST {
        return cut_to(&line, text.as_bytes());
    }
    line
}

/// As [`one_line`], of at most `most` characters and without a hash: for a column of a table.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut line: String = text.chars().take(most + 1).flat_map(escaped).collect();
    if let Some((end, _)) = line.char_indices().nth(most) {
        line.replace_range(end.., "…");
    }
    line
}

/// `c`, or its escape where it would end or disturb a line. Unicode has two line ends that are no control characters.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let disturbs = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let escape = disturbs.then(|| c.escape_default());
    let plain = (!disturbs).then_some(c);
    escape.into_iter().flatten().chain(plain)
}

/// `1 key`, `2 keys`.
pub(crate) fn count(number: u64, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

/// A message of several lines as one line.
pub(crate) fn joined(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name in `known` that is most similar to `written`, the first of equals; `None` if none is similar enough.
pub(crate) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let mut best = (0.0, None);
    for name in known {
        let alike = strsim::normalized_damerau_levenshtein(written, name);
        if alike >= LEAST_ALIKE && alike > best.0 {
            best = (alike, Some(name));
        }
    }
    best.1
}

/// `text` without the login of a URL in it. A message about a misplaced setting would show it.
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
    fn only_the_login_of_a_url_is_hidden() {
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
        let long = one_line(&"\n".repeat(MOST));
        assert!(long.len() <= MOST && is_cut(&long), "{long}");
    }

    #[test]
    fn texts_up_to_512_bytes_stay_whole_and_longer_ones_differ_by_their_hash() {
        let whole = "é".repeat(MOST / 2);
        assert_eq!(cut(&whole), whole);
        let [one, other] = ["a", "b"].map(|end| format!("{whole}{end}"));
        assert!(cut(&one).starts_with("éé") && cut(&one).len() <= MOST);
        assert_ne!(cut(&one), cut(&other));
        assert!(is_cut(&cut(&one)) && !is_cut(&whole) && !is_cut("…") && !is_cut(""));
        assert_eq!(cut(&cut(&one)), cut(&one));
    }
}
