//! What must hold for the exporter's output on a page, on a terminal and for Prometheus, whatever text of others it contains.
//! Imports nothing, so that the modules `fuzzing` beside private items can use it.

/// Panics if something in `text` could move a terminal's cursor.
pub(crate) fn harmless_text(text: &str) {
    let controls = |c: &char| c.is_control() && *c != '\n';
    assert_eq!(text.chars().find(controls), None, "{text:?}");
}

/// Panics unless Prometheus would accept all of `text`. It does not use the exporter's own parser of this format, which is
/// lenient towards nodes.
pub(crate) fn valid_exposition(text: &[u8]) {
    let text = std::str::from_utf8(text).expect("the metrics are not UTF-8");
    assert!(!text.contains('\0'), "Prometheus's lexer ends at a NUL");
    let mut families = std::collections::HashSet::new();
    let mut series = std::collections::HashSet::new();
    let mut family = "";
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next(), words.next().unwrap_or_default());
            if kind == Some("TYPE") {
                assert!(families.insert(name), "two families {name}");
                family = name;
            }
            continue;
        }
        let (labelled, value) = line.rsplit_once(' ').expect("a sample without a value");
        assert!(value.parse::<f64>().is_ok(), "not a value: {line:?}");
        let name = labelled.split('{').next().unwrap_or_default();
        assert!(name.starts_with(family), "{name} among {family}");
        if let Some(labels) = labelled[name.len()..].strip_prefix('{') {
            valid_labels(labels);
        }
        assert!(series.insert(labelled), "two series {labelled}");
    }
}

/// Panics unless this is `name="value",…}` with every value escaped.
fn valid_labels(mut rest: &str) {
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label without a value");
        let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        assert!(plain && !name.is_empty(), "not a label: {rest:?}");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            assert!(!escaped || matches!(c, '"' | '\\' | 'n'), "\\{c}");
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &value[end.expect("a label value without an end") + 1..];
        if rest == "}" {
            return;
        }
        rest = rest.strip_prefix(',').expect("labels without a comma");
    }
}

/// Panics unless the page consists of whole, nested elements with allowed attributes. Text of others can add none.
pub(crate) fn harmless_html(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some((text, tag)) = rest.split_once('<') {
        let controls = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(controls), "a control character in {text:?}");
        // Style and script are the exporter's own, and the only elements in which `<` is text.
        if let Some(element) = open.pop_if(|open| matches!(*open, "style" | "script")) {
            let (_, after) = rest
                .split_once(&format!("</{element}>"))
                .expect("no end of it");
            rest = after;
            continue;
        }
        let (tag, after) = tag.split_once('>').expect("a tag without an end");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "not what was open");
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let plain = name.bytes().all(|c| c.is_ascii_alphanumeric());
        assert!(
            plain && !name.is_empty() || name == "!doctype",
            "not an element: {tag:?}"
        );
        valid_attributes(attributes.trim_end_matches('/'));
        let void = ["!doctype", "br", "col", "link", "meta"].contains(&name);
        if !void && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

/// Panics unless these are attributes, quoted where they have a value, of which none is a script.
fn valid_attributes(mut rest: &str) {
    loop {
        rest = rest.trim_start_matches([' ', '\n']);
        if rest.is_empty() {
            return;
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let name = &rest[..end];
        let plain = name.bytes().all(|c| c.is_ascii_alphabetic() || c == b'-');
        assert!(
            plain && !name.starts_with("on"),
            "not an attribute: {rest:?}"
        );
        rest = &rest[end..];
        if let Some(quoted) = rest.strip_prefix("=\"") {
            let (value, after) = quoted.split_once('"').expect("a value without an end");
            assert!(!value.starts_with("javascript:"), "{name}={value:?}");
            assert!(name != "style" || !value.contains('('), "{name}={value:?}");
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "two series")]
    fn a_duplicate_series_is_noticed() {
        valid_exposition(b"# TYPE m gauge\nm{a=\"x\\\\\"} 1\nm{a=\"x\\\\\"} 2\n");
    }

    #[test]
    #[should_panic(expected = "not what was open")]
    fn an_element_in_text_of_others_is_noticed() {
        harmless_html("<p class=\"x\">it ends</p></body></p>");
    }

    #[test]
    #[should_panic(expected = "not an attribute")]
    fn an_attribute_in_text_of_others_is_noticed() {
        harmless_html("<p class=\"x\" onclick=\"y\"></p>");
    }

    #[test]
    #[should_panic(expected = "a label value without an end")]
    fn a_label_that_breaks_out_is_noticed() {
        valid_exposition(b"# TYPE m gauge\nm{a=\"x\\\"} 1\n");
    }
}
