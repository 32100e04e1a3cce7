//! The configuration file: YAML in sections, with any of the settings, and what has no flags: `invariants`, `checker`,
//! `nodes`, `limits`, and `targets` with all of this for further limiters. A key may have one dot in place of a level. What
//! is not known is refused by its place and with the nearest name that is. Values stay text, as those of flags are:
//! [`Reader`](super::reader) validates all of them.

use std::collections::BTreeSet;
use std::path::Path;

use serde_saphyr::{Location, Spanned};

use super::settings::{SETTINGS, Typed, Values, find, may_repeat, most_alike};
use super::yaml::{self, Node};
use super::{ConfigError, without_password};
use crate::report::InvariantName;
use crate::text::{one_line, without_login};

/// The longest name of a target: a part of the name of its state file.
const MOST_NAME: usize = 64;

/// The most targets. Each has connections, collections and series of its own, and an exporter that fails leaves all of
/// them unwatched.
const MOST_TARGETS: usize = 100;

/// The sections that targets do not have.
const OF_THE_EXPORTER: [&str; 3] = ["web.", "state.", "log."];

/// What has no flags, beside the invariants.
const WITHOUT_FLAGS: [&str; 10] = [
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
];

/// Adds what the file at `path`, which `origin` named, says to `values`.
pub(super) fn read(origin: &str, path: &Path, values: &mut Values) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::new(origin, path.display(), format!("a readable file ({error})"))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = one_line(&path.display().to_string());
    parse(&text, origin, &file, folder, values)
}

/// The same for its `text`; places in it are reported with the name `file`, paths in it are relative to `folder`.
pub(super) fn parse(
    text: &str,
    origin: &str,
    file: &str,
    folder: &Path,
    values: &mut Values,
) -> Result<(), ConfigError> {
    let mut reading = FileReader {
        origin,
        file,
        folder,
        known: [known(&[]), known(&OF_THE_EXPORTER)],
        seen: BTreeSet::new(),
        targets: Vec::new(),
        values,
    };
    let root = yaml::parse(text).map_err(|(at, why)| reading.malformed(at, &why))?;
    let at = root.referenced;
    match root.value {
        Node::Map(entries) => reading.entries("", entries)?,
        Node::Nothing => {}
        other => return Err(reading.refused("the file", at, other.shown(), "a mapping")),
    }
    let many = reading.targets.len();
    let expected = format!("{MOST_TARGETS} at most; further ones are another exporter's");
    match reading.targets.get(MOST_TARGETS) {
        Some(at) => Err(reading.refused("targets", *at, &format!("{many} targets"), &expected)),
        None => Ok(()),
    }
}

/// The names of everything that has a value, without what begins with one of `others`.
fn known(others: &[&str]) -> Vec<String> {
    let fields = ["enabled", "grace_period", "threshold", "severity"];
    let invariants = InvariantName::ALL.into_iter();
    let invariants =
        invariants.flat_map(|name| fields.map(|field| format!("invariants.{name}.{field}")));
    let settings = SETTINGS.iter().map(|setting| setting.flag);
    let names = settings.chain(WITHOUT_FLAGS).map(str::to_owned);
    let names = names.filter(|name| !name.starts_with("config."));
    let names = names.chain(invariants);
    let has = |name: &String| !others.iter().any(|section| name.starts_with(section));
    names.filter(has).collect()
}

/// A file while it is read.
struct FileReader<'a> {
    /// Who named the file.
    origin: &'a str,
    file: &'a str,
    /// What paths in it are relative to.
    folder: &'a Path,
    /// What is known outside of targets, and in them.
    known: [Vec<String>; 2],
    seen: BTreeSet<String>,
    /// Where each target is named first.
    targets: Vec<Location>,
    values: &'a mut Values,
}

impl FileReader<'_> {
    /// The place is behind the name, and stays there however long the name is.
    fn origin(&self, name: &str, at: Location) -> String {
        let name = one_line(&without_login(name));
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

    /// All of a mapping, whose names begin with `prefix`.
    fn entries(&mut self, prefix: &str, entries: Vec<yaml::Entry>) -> Result<(), ConfigError> {
        for (key, node) in entries {
            let (at, key) = (key.referenced, key.value);
            let name = format!("{prefix}{key}");
            let odd = key.is_empty() || key.contains('[') || key.matches('.').count() > 1;
            if odd && find(&key).is_none() {
                // A URL may be where no name is, with its password.
                let (name, key) = (without_password(&name), without_password(&key));
                let expected = "a name with one dot at the most: what is below it nests";
                return Err(self.refused(&name, at, &key, expected));
            }
            self.take(name, at, node)?;
        }
        Ok(())
    }

    /// What has this name: a value, or a mapping with more.
    fn take(&mut self, name: String, at: Location, node: Spanned<Node>) -> Result<(), ConfigError> {
        let (prefix, inner) = self.split(&name, at)?;
        let known = &self.known[usize::from(!prefix.is_empty())];
        let within = |whole: &String| {
            let rest = whole.strip_prefix(&inner);
            rest.is_some_and(|rest| inner.is_empty() || rest.starts_with('.'))
        };
        let section = known.iter().any(within) || name == "targets";
        let is_known = known.contains(&inner);
        match node.value {
            Node::List(items) if inner == "limits" => {
                self.put(name.clone(), at, node.referenced, Vec::new())?;
                for (index, item) in items.into_iter().enumerate() {
                    let (name, at) = (format!("{name}[{index}]"), item.referenced);
                    self.put(name.clone(), at, at, Vec::new())?;
                    self.take(name, at, item)?;
                }
                Ok(())
            }
            Node::Nothing if inner == "limits" => self.put(name, at, node.referenced, Vec::new()),
            other if inner == "limits" => {
                Err(self.refused(&name, node.referenced, other.shown(), "a list"))
            }
            value if is_known => self.value(name, &inner, at, node.referenced, value),
            Node::Map(entries) if !entries.is_empty() => self.entries(&format!("{name}."), entries),
            Node::Nothing | Node::Map(_) if section => Ok(()),
            other if section => {
                Err(self.refused(&name, node.referenced, other.shown(), "a mapping"))
            }
            _ => {
                // In a target, what is known outside of it would be a bad hint.
                let targets = prefix.is_empty().then_some("targets");
                let ends = |name: &str| name.match_indices('.').map(|(at, _)| at).collect();
                let candidates = known.iter().flat_map(|name| {
                    let ends: Vec<usize> = ends(name);
                    ends.into_iter().chain([name.len()]).map(|end| &name[..end])
                });
                let nearest = most_alike(&inner, candidates.chain(targets));
                let nearest = nearest.map(|nearest| format!("{prefix}{nearest}"));
                Err(ConfigError::unknown(&self.origin(&name, at), nearest))
            }
        }
    }

    /// What `name` begins with where it is a target's, and the rest, without the numbers of rules.
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

    /// Whether there may be a target of this name.
    fn target(&mut self, target: &str, at: Location) -> Result<(), ConfigError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if target.is_empty() || target.len() > MOST_NAME || !target.bytes().all(plain) {
            // A URL that was meant to be one may hold a password.
            let shown = without_password(target);
            let expected = "a name of 1 to 64 letters, digits, - and _";
            return Err(self.refused(&format!("targets.{shown}"), at, &shown, expected));
        }
        let name = format!("targets.{target}");
        if self.seen.contains(&name) {
            return Ok(());
        }
        self.targets.push(at);
        self.put(name, at, at, Vec::new())
    }

    /// Takes the value of the known name `inner`, which may be a target's.
    fn value(
        &mut self,
        name: String,
        inner: &str,
        key: Location,
        at: Location,
        value: Node,
    ) -> Result<(), ConfigError> {
        let found = value.shown().to_owned();
        let mut values = match value {
            // Written as 007, it is 7 by now.
            Node::Plain(number) if inner == "limits[].match" => {
                return Err(self.refused(&name, at, &number, "text"));
            }
            Node::List(items) if may_repeat(inner) && !items.is_empty() => {
                items.into_iter().map(|item| item.value.text()).collect()
            }
            one => vec![one.text()],
        };
        if find(inner).is_some_and(|setting| setting.value == "FILE") {
            for path in values.iter_mut().flatten().filter(|path| !path.is_empty()) {
                *path = self.folder.join(&*path).display().to_string();
            }
        }
        match values.into_iter().collect() {
            Some(values) => self.put(name, key, at, values),
            None => Err(self.refused(&name, at, &found, "a value")),
        }
    }

    /// Refuses what the file has twice, once nested and once with a dot.
    fn put(
        &mut self,
        name: String,
        key: Location,
        at: Location,
        values: Vec<String>,
    ) -> Result<(), ConfigError> {
        if !self.seen.insert(name.clone()) {
            return Err(self.malformed(Some(key), &format!("{name} stands here again")));
        }
        let origin = self.origin(&name, at);
        self.values.put(name, Typed { origin, values });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` as the file `f.yml`.
    fn read(text: &str) -> Result<(), ConfigError> {
        let mut values = Values::default();
        parse(text, "--config.file", "f.yml", Path::new(""), &mut values)
    }

    #[test]
    fn settings_nest_at_their_dots() {
        let mut values = Values::default();
        let text = "redis:\n  url: redis://r:1\nratelimiter.url: [http://a:1, http://b:1]\nprobe: {nodes: false}\n";
        parse(
            text,
            "--config.file",
            "f.yml",
            Path::new("/etc"),
            &mut values,
        )
        .unwrap();
        assert_eq!(values.get("redis.url").unwrap().values, ["redis://r:1"]);
        assert_eq!(
            values.get("redis.url").unwrap().origin,
            "redis.url in f.yml:2:8"
        );
        assert_eq!(values.get("ratelimiter.url").unwrap().values.len(), 2);
        assert_eq!(values.get("probe.nodes").unwrap().values, ["false"]);
    }

    #[test]
    fn paths_in_the_file_are_relative_to_it() {
        let mut values = Values::default();
        let text = "redis.password-file: secret\nstate.file: /var/state\ntargets: {eu: {redis.password-file: eu/secret}}\n";
        let folder = Path::new("/etc/exporter");
        parse(text, "--config.file", "f.yml", folder, &mut values).unwrap();
        let path = |values: &Values, flag| values.get(flag).unwrap().values.clone();
        assert_eq!(
            path(&values, "redis.password-file"),
            ["/etc/exporter/secret"]
        );
        assert_eq!(path(&values, "state.file"), ["/var/state"]);
        assert_eq!(
            path(&values, "targets.eu.redis.password-file"),
            ["/etc/exporter/eu/secret"]
        );
    }

    #[test]
    fn what_stands_twice_in_any_form_is_refused_with_its_place() {
        for (text, name, place) in [
            ("redis.url: a\nredis: {url: b}\n", "redis.url", "2:9"),
            (
                "limits: []\ntargets.eu:\n  limits: []\ntargets: {eu: {limits: []}}\n",
                "targets.eu.limits",
                "4:16",
            ),
        ] {
            let read = read(text);
            let error = read.unwrap_err().to_string();
            let place = format!("--config.file: f.yml:{place}: ");
            let why = format!("expected valid YAML: {name} stands here again");
            assert!(
                error.starts_with(&place) && error.ends_with(&why),
                "{error}"
            );
        }
    }

    #[test]
    fn odd_names_are_refused_and_never_passed_over() {
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
                let read = read(&text);
                let error = read.unwrap_err().to_string();
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
                let mut values = Values::default();
                let read = parse(&text, "--config.file", "f.yml", Path::new(""), &mut values);
                let error = read.unwrap_err().to_string();
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
            let read = read(&text);
            let error = read.unwrap_err().to_string();
            assert!(error.contains(" in f.yml:2:"), "{error}");
        }
    }

    #[test]
    fn a_target_has_values_and_sections_of_its_own() {
        let mut values = Values::default();
        let text = "redis.timeout: 2s\ntargets:\n  eu:\n    redis: {url: redis://r:1}\n    invariants: {high_latency: {threshold: 1s}}\n";
        parse(
            text,
            "--config.file",
            "f.yml",
            Path::new("/etc"),
            &mut values,
        )
        .unwrap();
        let target = values.below("targets.eu.");
        assert_eq!(
            target.get("redis.url").unwrap().origin,
            "targets.eu.redis.url in f.yml:4:18"
        );
        let threshold = "invariants.high_latency.threshold";
        assert_eq!(target.get(threshold).unwrap().values, ["1s"]);
        assert!(target.get("redis.timeout").is_none() && values.get(threshold).is_none());
    }
}
