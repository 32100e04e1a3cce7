//! Parses JSON from other programs. Its depth is bounded, and anything else is `None`.

use serde_json::Value;

/// The deepest nesting of a value.
const MOST_LEVELS: usize = 16;

/// Parses `text`, if it is JSON that does not nest deeper than 16 levels.
pub(super) fn parse(text: &[u8]) -> Option<Value> {
    is_flat(text).then(|| serde_json::from_slice(text).ok())?
}

fn is_flat(text: &[u8]) -> bool {
    let (mut level, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        if quoted {
            quoted = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'[' | b'{' => level += 1,
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
        if level > MOST_LEVELS {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_values_are_none() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(deep(16).as_bytes()).is_some());
        assert!(parse(deep(17).as_bytes()).is_none());
        assert!(parse(deep(100_000).as_bytes()).is_none());
        assert!(parse(br#"["[[[[[[[[[[[[[[[[[[[[[\"[[", 1]"#).is_some());
    }
}
