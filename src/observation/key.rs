//! Writes keys of any bytes as text, and reads them back. A label value and a JSON string must be UTF-8, and some
//! parsers stop at a NUL: such bytes are written `\xNN`, and everything else is unchanged. Long keys are cut where they
//! are shown, and end with a hash of the whole: a label that is too long would cost the scrape.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::text::{self, MOST, is_cut};

/// `key` as it is shown: as [`encode_key`] writes it, cut at 512 bytes. No two keys are shown alike.
pub fn shown_key(key: &[u8]) -> String {
    // The rest is cut off in any case.
    let shown = encode_key(&key[..key.len().min(MOST)]);
    if key.len() > MOST || shown.len() > MOST {
        return text::cut_to(&shown, key);
    }
    shown
}

/// The names under which a subject may be shown. It was typed as a node's id, or as a key in the form of
/// [`encode_key`].
pub fn names_of(subject: &str) -> Vec<String> {
    let mut names = vec![text::cut(subject).into_owned()];
    if names[0] != subject {
        names.push(shown_key(&decode_key(subject)));
    }
    names
}

/// Whether `name` is what [`shown_key`] made of a long key, which cannot be found by it.
pub fn is_cut_key(name: &str) -> bool {
    is_cut(name)
}

/// The longest key, as it is written, whose violation and label survive a restart. The file is written after each collection,
/// so it must stay small.
pub const LONGEST_SAVED_KEY: usize = 64 * 1024;

/// Writes `key` as text. Invalid UTF-8 and NUL become `\xNN`. So does a backslash that would look like such an escape,
/// and an ellipsis that would look like the end of a cut key. [`decode_key`] is the inverse.
pub fn encode_key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains('\0') && !text.contains("\\x") && !is_cut(text) => {
            return text.to_owned();
        }
        _ => {}
    }
    let mut out = String::with_capacity(key.len() + 8);
    let mut done = 0;
    for chunk in key.utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            let looks_like_escape = c == '\\' && escaped_byte(&key[done + at..]).is_some();
            let rest = &key[done + at..];
            if c == '\0' || looks_like_escape {
                push_escape(&mut out, c as u8);
            } else if c == '…' && is_end_of_cut(rest) {
                for byte in &rest[..c.len_utf8()] {
                    push_escape(&mut out, *byte);
                }
            } else {
                out.push(c);
            }
        }
        for &byte in chunk.invalid() {
            push_escape(&mut out, byte);
        }
        done += chunk.valid().len() + chunk.invalid().len();
    }
    out
}

/// The bytes that [`encode_key`] wrote as `text`.
pub fn decode_key(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some(&first) = rest.first() {
        if let Some(byte) = escaped_byte(rest) {
            out.push(byte);
            rest = &rest[4..];
        } else {
            out.push(first);
            rest = &rest[1..];
        }
    }
    out
}

/// The first 16 hexadecimal digits of the key's SHA-256: stable, and the same as
/// `printf %s KEY | sha256sum | cut -c1-16` prints.
pub fn hash_key(key: &[u8]) -> String {
    text::hex(&Sha256::digest(key)[..8])
}

/// Whether `bytes` are nothing but the end of a key that was cut.
fn is_end_of_cut(bytes: &[u8]) -> bool {
    bytes.len() == text::END && std::str::from_utf8(bytes).is_ok_and(is_cut)
}

fn push_escape(out: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// The byte of the escape `\xNN` at the start of `bytes`.
fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else {
        return None;
    };
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_as_it_is() {
        for key in [
            "user:1",
            "he said \"hi\"",
            "back\\slash",
            "a\nb",
            "🔥key",
            "",
        ] {
            assert_eq!(encode_key(key.as_bytes()), key);
        }
    }

    #[test]
    fn bytes_that_text_cannot_hold_are_escaped() {
        assert_eq!(encode_key(b"a\0b"), "a\\x00b");
        assert_eq!(encode_key(b"\xff\xfek"), "\\xff\\xfek");
        assert_eq!(encode_key(b"\\xff"), "\\x5cxff");
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        assert_eq!(hash_key(b"user:1"), "abc3a47b8ad18b85");
    }

    #[test]
    fn long_keys_are_cut_and_no_two_keys_are_shown_alike() {
        let long = |end: &str| format!("{}{end}", "k".repeat(600));
        let one = shown_key(long("1").as_bytes());
        assert!(one.len() <= MOST && one.starts_with("kkk") && is_cut_key(&one));
        assert_ne!(one, shown_key(long("2").as_bytes()));
        // The hash is what sha256sum prints of the whole key.
        assert!(one.contains(&format!("…{}", hash_key(long("1").as_bytes()))));
        // A real key may look like a cut one.
        let alike = shown_key(one.as_bytes());
        assert!(alike != one && alike.len() <= MOST, "{alike}");
        assert_eq!(decode_key(&alike), one.as_bytes());
        // Every byte of it is four in the label.
        let escaped = shown_key(&[0xff; 200]);
        assert!(escaped.len() <= MOST && is_cut_key(&escaped));
        assert_eq!(shown_key(b"user:1"), "user:1");
    }

    proptest! {
        #[test]
        fn any_key_comes_back(key in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c')], 0..40))
        {
            prop_assert_eq!(decode_key(&encode_key(&key)), key);
        }
    }
}
