//! Reads the configuration file. It is YAML with any of the settings in sections, and with sections that have no flags:
//! `invariants`, `checker`, `nodes`, `limits`, and `targets`, which has all of this for further limiters. A key may
//! have one dot instead of a level. An unknown name is refused with its place and the nearest known name. Values stay
//! text, like those of flags: `reader` validates both.

use std::path::Path;

use serde_saphyr::{Location, Spanned};

use super::settings::{SETTINGS, Typed, Values, find, may_repeat};
use super::yaml::{Entry, Node};
use super::{ConfigError, without_password};
use crate::files;
use crate::report::InvariantName;
use crate::text::{nearest, one_line};
use crate::yaml;

/// The longest name of a target: it is a part of the name of the target's state file.
const MOST_NAME: usize = 64;

/// The most targets. Each has connections, collections and series of its own, and while the exporter is down, none of them is
/// watched.
const MOST_TARGETS: usize = 100;

/// The sections that targets do not have.
const OF_THE_EXPORTER: [&str; 3] = ["web.", "state.", "log."];

/// The names without flags, besides the invariants.
const WITHOUT_FLAGS: [&str; 11] = [
    "checker.unknown_hold",
    "checker.cleared_hold",
    "checker.lowered_limit_grace",
    "nodes.registration_ttl",
    "nodes.heartbeat_interval",
    "nodes.forget_after",
    "limits",
    "limits[].match",
    "limits[].limit",
    "limits[].window",
    "limits[].burst",
];

/// The values in the file that `named` names.
pub(super) fn read(named: &Typed) -> Result<Values, ConfigError> {
    let path = Path::new(named.text());
    let text = files::read_text(path)
        .map_err(|error| named.refused(format!("a readable file ({error})")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, &named.origin, &one_line(named.text()), folder)
}

/// The values in `text`, the content of the file `file`, which `origin` named. Paths in it are relative to `folder`.
pub(super) fn parse(
    text: &str,
    origin: &str,
    file: &str,
    folder: &Path,
) -> Result<Values, ConfigError> {
    let mut reading = FileReader {
        origin,
        file,
        folder,
        known: known(),
        targets: 0,
        values: Values::default(),
    };
    let root: Spanned<Node> = yaml::parse(text).map_err(|(at, why)| reading.malformed(at, &why))?;
    match root.value {
        Node::Map(entries) => reading.entries("", entries)?,
        Node::Nothing => {}
        other => {
            return Err(reading.refused("the file", root.referenced, other.shown(), "a mapping"));
        }
    }
    Ok(reading.values)
}

/// The names of everything that has a value.
fn known() -> Vec<String> {
    let fields = ["enabled", "grace_period", "threshold", "severity"];
    let invariants = InvariantName::ALL.into_iter();
    let invariants =
        invariants.flat_map(|name| fields.map(|field| format!("invariants.{name}.{field}")));
    let settings = SETTINGS.iter().map(|setting| setting.flag);
    let settings = settings.filter(|flag| !flag.starts_with("config."));
    let names = settings.chain(WITHOUT_FLAGS).map(str::to_owned);
    names.chain(invariants).collect()
}

/// A file while it is read.
struct FileReader<'a> {
    /// Where the name of the file is from.
    origin: &'a str,
    file: &'a str,
    /// What paths in it are relative to.
    folder: &'a Path,
    known: Vec<String>,
    /// How many targets there are so far.
    targets: usize,
    values: Values,
}

impl FileReader<'_> {
    /// `name` and its place. A long name is cut so that the place is not, and a URL in place of a name is without its
    /// password.
    fn origin(&self, name: &str, at: Location) -> String {
        let name = one_line(&without_password(name));
        format!("{name} in {}:{}:{}", self.file, at.line(), at.column())
    }

    fn refused(&self, name: &str, at: Location, value: &str, expected: &str) -> ConfigError {
        ConfigError::new(self.origin(name, at), value, expected)
    }

    fn malformed(&self, at: Option<Location>, why: &str) -> ConfigError {
        let place = at.map(|at| format!(": {}:{}:{}", self.file, at.line(), at.column()));
        let origin = format!("{}{}", self.origin, place.unwrap_or_default());
        ConfigError::new(origin, self.file, format!("valid YAML: {why}"))
    }

    /// Takes all entries of a mapping. Their names begin with `prefix`.
    fn entries(&mut self, prefix: &str, entries: Vec<Entry>) -> Result<(), ConfigError> {
        for (key, node) in entries {
            let (at, key) = (key.referenced, key.value);
            let name = format!("{prefix}{key}");
            let odd = key.is_empty() || key.contains('[') || key.matches('.').count() > 1;
            if odd && find(&key).is_none() {
                let expected = "a name with one dot at the most: what is below it nests";
                return Err(self.refused(&name, at, &without_password(&key), expected));
            }
            self.take(name, at, node)?;
        }
        Ok(())
    }

    /// Takes the value called `name`, or all values of the mapping `name`.
    fn take(&mut self, name: String, at: Location, node: Spanned<Node>) -> Result<(), ConfigError> {
        let (prefix, inner) = self.split(&name, at)?;
        let of_all = |known: &&String| !OF_THE_EXPORTER.iter().any(|it| known.starts_with(it));
        let known = || {
            let known = self.known.iter();
            known.filter(|known| prefix.is_empty() || of_all(known))
        };
        let is_known = known().any(|known| *known == inner);
        let section = name == "targets"
            || known().any(|known| {
                let rest = known.strip_prefix(&inner);
                rest.is_some_and(|rest| inner.is_empty() || rest.starts_with('.'))
            });
        match node.value {
            value if inner == "limits" => self.rules(&name, at, node.referenced, value),
            value if is_known => self.value(name, &inner, at, node.referenced, value),
            Node::Map(entries) if !entries.is_empty() => self.entries(&format!("{name}."), entries),
            Node::Nothing | Node::Map(_) if section => Ok(()),
            other if section => {
                Err(self.refused(&name, node.referenced, other.shown(), "a mapping"))
            }
            _ => {
                // The names of values and of sections. A section is what is before a dot.
                let names = known().flat_map(|known| {
                    let ends = known.match_indices('.').map(|(at, _)| at);
                    ends.chain([known.len()]).map(|end| &known[..end])
                });
                let nearest = nearest(&inner, names.chain(prefix.is_empty().then_some("targets")));
                let nearest = nearest.map(|nearest| format!("{prefix}{nearest}"));
                Err(ConfigError::unknown(&self.origin(&name, at), nearest))
            }
        }
    }

    /// The beginning of `name` if it is a target's, and the rest without the numbers of rules.
    fn split(&mut self, name: &str, at: Location) -> Result<(String, String), ConfigError> {
        let mut inner = name.to_owned();
        let mut prefix = String::new();
        if let Some(rest) = name.strip_prefix("targets.") {
            let (target, rest) = rest.split_once('.').unwrap_or((rest, ""));
            self.target(target, at)?;
            (prefix, inner) = (format!("targets.{target}."), rest.to_owned());
        }
        if let Some((rules, field)) = inner.split_once('[') {
            let field = field.split_once(']').map_or("", |(_, field)| field);
            inner = format!("{rules}[]{field}");
        }
        Ok((prefix, inner))
    }

    /// Adds the target, unless it was added before.
    fn target(&mut self, target: &str, at: Location) -> Result<(), ConfigError> {
        let name = format!("targets.{target}");
        if self.values.given(&name).is_some() {
            return Ok(());
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if target.is_empty() || target.len() > MOST_NAME || !target.bytes().all(plain) {
            let expected = "a name of 1 to 64 letters, digits, - and _";
            return Err(self.refused(&name, at, &without_password(target), expected));
        }
        self.targets += 1;
        if self.targets > MOST_TARGETS {
            let expected = format!("{MOST_TARGETS} targets at most: another exporter can watch it");
            return Err(self.refused(&name, at, target, &expected));
        }
        self.put(name, at, at, Vec::new())
    }

    /// Takes the list `limits`. Each rule is named by its number.
    fn rules(
        &mut self,
        name: &str,
        key: Location,
        at: Location,
        value: Node,
    ) -> Result<(), ConfigError> {
        let rules = match value {
            Node::List(rules) => rules,
            Node::Nothing => Vec::new(),
            other => return Err(self.refused(name, at, other.shown(), "a list")),
        };
        self.put(name.to_owned(), key, at, Vec::new())?;
        for (index, rule) in rules.into_iter().enumerate() {
            let (name, at) = (format!("{name}[{index}]"), rule.referenced);
            self.put(name.clone(), at, at, Vec::new())?;
            self.take(name, at, rule)?;
        }
        Ok(())
    }

    /// Takes the value of `name`, which is `inner` or a target's `inner`.
    fn value(
        &mut self,
        name: String,
        inner: &str,
        key: Location,
        at: Location,
        value: Node,
    ) -> Result<(), ConfigError> {
        let found = value.shown().to_owned();
        let values: Option<Vec<String>> = match value {
            // The parser has made 7 of 007.
            Node::Plain(_) if inner == "limits[].match" => {
                return Err(self.refused(&name, at, &found, "text"));
            }
            Node::List(items) if may_repeat(inner) && !items.is_empty() => {
                items.into_iter().map(|item| item.value.text()).collect()
            }
            one => one.text().map(|text| vec![text]),
        };
        let Some(mut values) = values else {
            return Err(self.refused(&name, at, &found, "a value"));
        };
        if find(inner).is_some_and(|setting| setting.value == "FILE") {
            for path in values.iter_mut().filter(|path| !path.is_empty()) {
                *path = self.folder.join(&*path).display().to_string();
            }
        }
        self.put(name, key, at, values)
    }

    /// Stores a value. Refuses one that the file has twice, once nested and once with a dot.
    fn put(
        &mut self,
        name: String,
        key: Location,
        at: Location,
        values: Vec<String>,
    ) -> Result<(), ConfigError> {
        if self.values.given(&name).is_some() {
            return Err(self.malformed(Some(key), &format!("{name} is given twice")));
        }
        let origin = self.origin(&name, at);
        self.values.put(name, Typed { origin, values });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` as the file `f.yml` in `/etc/exporter`.
    fn read(text: &str) -> Result<Values, ConfigError> {
        parse(text, "--config.file", "f.yml", Path::new("/etc/exporter"))
    }

    fn given<'a>(values: &'a Values, name: &str) -> &'a [String] {
        &values.given(name).unwrap().values
    }

    #[test]
    fn settings_nest_at_their_dots() {
        let text = "redis:\n  url: redis://r:1\nratelimiter.url: [http://a:1, http://b:1]\nprobe: {nodes: false}\n";
        let values = read(text).unwrap();
        let url = values.given("redis.url").unwrap();
        assert_eq!(url.values, ["redis://r:1"]);
        assert_eq!(url.origin, "redis.url in f.yml:2:8");
        assert_eq!(given(&values, "ratelimiter.url").len(), 2);
        assert_eq!(given(&values, "probe.nodes"), ["false"]);
    }

    #[test]
    fn paths_in_the_file_are_relative_to_it() {
        let text = "redis.password-file: secret\nstate.file: /var/state\ntargets: {eu: {redis.password-file: eu/secret}}\n";
        let values = read(text).unwrap();
        let path = |flag| given(&values, flag);
        assert_eq!(path("redis.password-file"), ["/etc/exporter/secret"]);
        assert_eq!(path("state.file"), ["/var/state"]);
        assert_eq!(
            path("targets.eu.redis.password-file"),
            ["/etc/exporter/eu/secret"]
        );
    }

    #[test]
    fn a_setting_that_is_given_twice_in_any_form_is_refused_with_its_place() {
        for (text, name, place) in [
            ("redis.url: a\nredis: {url: b}\n", "redis.url", "2:9"),
            (
                "limits: []\ntargets.eu:\n  limits: []\ntargets: {eu: {limits: []}}\n",
                "targets.eu.limits",
                "4:16",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            let place = format!("--config.file: f.yml:{place}: ");
            let why = format!("expected valid YAML: {name} is given twice");
            assert!(
                error.starts_with(&place) && error.ends_with(&why),
                "{error}"
            );
        }
    }

    #[test]
    fn odd_names_are_refused_and_never_ignored() {
        let unknown = "not known here";
        for (name, why) in [
            ("targets.eu.", "one dot"),
            ("targets.eu..redis.url", "one dot"),
            ("targets.eu.redis.url", "one dot"),
            ("invariants.high_latency.threshold", "one dot"),
            ("'limits[0].match'", "one dot"),
            ("redis.url.x", "one dot"),
            ("targets.eu redis", "a name of 1 to 64 letters"),
            ("limits.match", unknown),
            ("redis.", unknown),
            ("''", "one dot"),
            ("'.'", unknown),
            ("config.file", unknown),
        ] {
            for value in ["", " 1"] {
                let text = format!("{name}:{value}\n");
                let error = read(&text).unwrap_err().to_string();
                let place = error.contains(" in f.yml:1:1: ");
                assert!(place && error.contains(why), "{error}");
            }
        }
    }

    #[test]
    fn a_url_in_the_place_of_a_name_does_not_show_its_password() {
        for key in [
            "redis://me:hunter2@h",
            "redis://me:hunter2@a.b.c",
            "targets.redis://me:hunter2@a.b.c",
        ] {
            for text in [format!("'{key}': 1\n"), format!("keys: {{'{key}': 1}}\n")] {
                let error = read(&text).unwrap_err().to_string();
                assert!(error.contains(" in f.yml:1:"), "{error}");
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn a_long_name_does_not_hide_its_place() {
        // YAML takes keys of up to 1024 characters.
        let name = "é".repeat(1000);
        for text in [
            format!("\n{name}: 1\n"),
            format!("\ntargets: {{'{name}': {{}}}}\n"),
            format!("\nlimits: [{{'{name}': 1}}]\n"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(" in f.yml:2:"), "{error}");
        }
    }

    #[test]
    fn a_target_has_values_and_sections_of_its_own() {
        let text = "redis.timeout: 2s\ntargets:\n  eu:\n    redis: {url: redis://r:1}\n    invariants: {high_latency: {threshold: 1s}}\n";
        let values = read(text).unwrap();
        let target = values.below("targets.eu.");
        assert_eq!(
            target.given("redis.url").unwrap().origin,
            "targets.eu.redis.url in f.yml:4:18"
        );
        let threshold = "invariants.high_latency.threshold";
        assert_eq!(given(&target, threshold), ["1s"]);
        assert!(target.given("redis.timeout").is_none() && values.given(threshold).is_none());
    }
}
