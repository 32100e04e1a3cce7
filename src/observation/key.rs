//! Keys of any bytes as text, there and back. A label value and a JSON string must be UTF-8 and some parsers stop
//! at a NUL, so the bytes that cannot stand for themselves are written `\xNN`; everything else is left as it is.

use sha2::{Digest, Sha256};

/// Writes `key` as text: invalid UTF-8 and NUL become `\xNN`, and so does a backslash that would otherwise look
/// like such an escape. [`decode_key`] gives the bytes back.
pub fn encode_key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains('\0') && !text.contains("\\x") => return text.to_owned(),
        _ => {}
    }
    let mut out = String::with_capacity(key.len() + 8);
    let mut done = 0;
    for chunk in key.utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            let looks_like_escape = c == '\\' && escaped_byte(&key[done + at..]).is_some();
            if c == '\0' || looks_like_escape {
                push_escape(&mut out, c as u8);
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
    let digest = Sha256::digest(key);
    let mut out = String::with_capacity(16);
    for byte in &digest[..8] {
        push_hex(&mut out, *byte);
    }
    out
}

fn push_escape(out: &mut String, byte: u8) {
    out.push_str("\\x");
    push_hex(out, byte);
}

fn push_hex(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// The byte that `\xNN` at the start of `bytes` stands for.
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
    fn bytes_that_cannot_stand_for_themselves_are_escaped() {
        assert_eq!(encode_key(b"a\0b"), "a\\x00b");
        assert_eq!(encode_key(b"\xff\xfek"), "\\xff\\xfek");
        assert_eq!(encode_key(b"\\xff"), "\\x5cxff");
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        assert_eq!(hash_key(b"user:1"), "abc3a47b8ad18b85");
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
