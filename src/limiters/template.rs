//! Texts with `$group` or `${group}`, which are filled from the groups of a name. `$name` is the full name.

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Group(String),
}

impl Template {
    /// Parses `text`. `$$` is a dollar.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(tail) = rest.strip_prefix('$') {
                plain.push('$');
                rest = tail;
                continue;
            }
            let (group, tail) = if let Some(braced) = rest.strip_prefix('{') {
                braced
                    .split_once('}')
                    .ok_or_else(|| format!("expected a }} after ${{ in {text:?}"))?
            } else {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                rest.split_at(end.unwrap_or(rest.len()))
            };
            if group.is_empty() {
                return Err(format!("expected the name of a group after $ in {text:?}"));
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into_bytes()));
            }
            parts.push(Part::Group(group.to_owned()));
            rest = tail;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into_bytes()));
        }
        Ok(Self { parts })
    }

    /// The value of one group.
    pub(super) fn of_group(group: &str) -> Self {
        let parts = vec![Part::Group(group.to_owned())];
        Self { parts }
    }

    /// The groups that it names.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Group(group) => Some(group.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text before the first group.
    pub(super) fn beginning(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            Some(Part::Group(_)) | None => &[],
        }
    }

    /// The text before the key, if the key is all that follows.
    pub(super) fn before_key(&self) -> Option<&[u8]> {
        match &self.parts[..] {
            [Part::Text(text), Part::Group(group)] if group == "key" => Some(text),
            _ => None,
        }
    }

    /// Whether it makes JSON pointers.
    pub(super) fn is_pointer(&self) -> bool {
        self.parts.is_empty() || self.beginning().starts_with(b"/")
    }

    /// Fills in the groups. A group that took no part in the match is empty.
    pub fn fill<'a>(&self, group: impl Fn(&str) -> Option<&'a [u8]>) -> Vec<u8> {
        let mut filled = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.extend_from_slice(text),
                Part::Group(name) => filled.extend_from_slice(group(name).unwrap_or_default()),
            }
        }
        filled
    }

    /// [`Self::fill`] with each group as `encode` writes it.
    pub(super) fn fill_encoded<'a>(
        &self,
        group: impl Fn(&str) -> Option<&'a [u8]>,
        encode: impl Fn(&[u8]) -> String,
    ) -> Vec<u8> {
        let mut filled = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.extend_from_slice(text),
                Part::Group(name) => filled.extend(encode(group(name).unwrap_or_default()).bytes()),
            }
        }
        filled
    }

    /// [`Self::fill`] without the blanks at the ends that empty groups leave. Blanks in groups stay.
    pub(super) fn fill_trimmed<'a>(&'a self, group: impl Fn(&str) -> Option<&'a [u8]>) -> Vec<u8> {
        let filled = |part: &'a Part| match part {
            Part::Text(text) => (false, text.as_slice()),
            Part::Group(name) => (true, group(name).unwrap_or_default()),
        };
        let mut parts: Vec<(bool, &[u8])> = self.parts.iter().map(filled).collect();
        trim(parts.iter_mut(), <[u8]>::trim_ascii_start);
        trim(parts.iter_mut().rev(), <[u8]>::trim_ascii_end);
        parts.iter().flat_map(|(_, text)| *text).copied().collect()
    }
}

/// Trims the texts beside empty groups, up to the first of `parts` that is left. Each says whether it is a group.
fn trim<'a: 'p, 'p>(
    parts: impl Iterator<Item = &'p mut (bool, &'a [u8])>,
    trim: fn(&[u8]) -> &[u8],
) {
    let mut after_empty = false;
    for (is_group, text) in parts {
        if !*is_group && after_empty {
            *text = trim(text);
        }
        if !text.is_empty() {
            return;
        }
        after_empty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> String {
        let template = Template::parse(text).unwrap();
        let filled = template.fill(|group| match group {
            "key" => Some(&b"user:1"[..]),
            "scope" => Some(b"login"),
            _ => None,
        });
        String::from_utf8(filled).unwrap()
    }

    #[test]
    fn groups_are_filled_in() {
        assert_eq!(fill("$scope $key"), "login user:1");
        assert_eq!(fill("{${scope}:$key}:window"), "{login:user:1}:window");
        assert_eq!(fill("a$$b$none"), "a$b");
        assert_eq!(fill(""), "");
    }

    #[test]
    fn empty_groups_leave_no_blanks_at_the_ends_and_blanks_in_groups_stay() {
        for (text, expected) in [
            ("$none $key", " a b "),
            ("$key $none", " a b "),
            ("$key$none", " a b "),
            ("$none $none $key $none", " a b "),
            ("$none: $key", ":  a b "),
            ("of $none", "of"),
            ("$none $none", ""),
            (" $key", "  a b "),
        ] {
            let template = Template::parse(text).unwrap();
            let filled = template.fill_trimmed(|group| (group == "key").then_some(&b" a b "[..]));
            assert_eq!(String::from_utf8(filled).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["$", "a $ b", "${key", "${}"] {
            assert!(
                Template::parse(text).unwrap_err().starts_with("expected"),
                "{text}"
            );
        }
    }
}
