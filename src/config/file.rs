//! The configuration file: YAML with any of the settings, and what has no flags: `invariants`, `checker`, `nodes`,
//! `limits`, and `targets` with all of this for further limiters. Mappings and dots in keys come to the same names. What
//! is not known is refused by its place and with the nearest name that is. Values stay text: [`Reader`](super::reader)
//! validates them, wherever they are from.

use std::collections::BTreeSet;
use std::path::Path;

use serde_saphyr::{Location, Spanned};

use super::settings::{SETTINGS, Typed, Values, find, may_repeat, most_alike};
use super::yaml::{self, Entry, Node};
use super::{ConfigError, without_password};
use crate::report::InvariantName;
use crate::text::{one_line, without_login};

/// The longest name of a target: a part of the name of its state file.
const MOST_NAME: usize = 64;

/// The most targets. Each has connections, collections and series of its own, and an exporter that fails leaves all of
/// them unwatched.
const MOST_TARGETS: usize = 100;

/// The settings that each target has for itself: those about what is observed.
const OF_TARGETS: [&str; 8] = [
    "ratelimiter.",
    "probe.",
    "redis.",
    "prometheus.",
    "latency.",
    "keys.",
    "scan.",
    "limiter.",
];

/// What has no flags, beside the invariants.
const WITHOUT_FLAGS: [&str; 7] = [
    "checker.unknown_hold",
    "checker.cleared_hold",
    "checker.lowered_limit_grace",
    "nodes.registration_ttl",
    "nodes.heartbeat_interval",
    "nodes.forget_after",
    "limits",
];

/// What each of `limits` says.
const OF_LIMITS: [&str; 3] = ["match", "limit", "window"];

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
        known: [known(|_| true), known(of_targets)],
        seen: BTreeSet::new(),
        targets: Vec::new(),
        values,
    };
    match yaml::parse(text) {
        Ok(root) => reading.section("", root)?,
        Err((at, why)) => return Err(reading.malformed(at, &why)),
    }
    if let Some(beyond) = reading.targets.get(MOST_TARGETS) {
        let origin = reading.origin("targets", *beyond);
        let given = format!("{} targets", reading.targets.len());
        let expected = format!("{MOST_TARGETS} at most; further ones are another exporter's");
        return Err(ConfigError::new(origin, given, expected));
    }
    Ok(())
}

/// The names of everything that has a value, in the file or in a target.
fn known(setting: impl Fn(&str) -> bool) -> Vec<String> {
    let settings = SETTINGS.iter().map(|setting| setting.flag);
    let settings = settings.filter(|flag| !flag.starts_with("config.") && setting(flag));
    let fields = ["enabled", "grace_period", "threshold", "severity"];
    let invariants = InvariantName::ALL
        .iter()
        .flat_map(|name| fields.map(|field| format!("invariants.{name}.{field}")));
    let others = settings.chain(WITHOUT_FLAGS).map(str::to_owned);
    others.chain(invariants).collect()
}

/// The one of `known`, or of the names that they begin with, that is most like `written`.
fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let candidates = known.flat_map(|name| {
        let dots = name.match_indices('.').map(|(at, _)| at);
        dots.chain([name.len()]).map(move |end| &name[..end])
    });
    most_alike(written, candidates)
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

    fn malformed(&self, at: Option<Location>, why: &str) -> ConfigError {
        let place = at.map(|at| format!(": {}:{}:{}", self.file, at.line(), at.column()));
        let origin = format!("{}{}", self.origin, place.unwrap_or_default());
        ConfigError::new(origin, self.file, format!("valid YAML: {why}"))
    }

    /// Everything in the mapping `node`, which is called `path`.
    fn section(&mut self, path: &str, node: Spanned<Node>) -> Result<(), ConfigError> {
        for (key, node) in self.entries(path, node)? {
            let name = match path {
                "" => key.value,
                path => format!("{path}.{}", key.value),
            };
            self.entry(name, key.referenced, node)?;
        }
        Ok(())
    }

    /// The entries of a mapping; nothing at all is an empty one.
    fn entries(&self, path: &str, node: Spanned<Node>) -> Result<Vec<Entry>, ConfigError> {
        match node.value {
            Node::Map(entries) => Ok(entries),
            Node::Nothing => Ok(Vec::new()),
            other => {
                let name = if path.is_empty() { "the file" } else { path };
                let origin = self.origin(name, node.referenced);
                Err(ConfigError::new(origin, other.shown(), "a mapping"))
            }
        }
    }

    fn entry(
        &mut self,
        name: String,
        at: Location,
        node: Spanned<Node>,
    ) -> Result<(), ConfigError> {
        let target = name.strip_prefix("targets.").map(|rest| {
            let (target, inner) = rest
                .split_once('.')
                .map_or((rest, None), |(t, i)| (t, Some(i)));
            (target.to_owned(), inner.map(str::to_owned))
        });
        let (prefix, inner) = match target {
            None => (String::new(), name.clone()),
            Some((target, inner)) => {
                self.target(&target, at)?;
                match inner {
                    None => return self.section(&name, node),
                    Some(inner) => (format!("targets.{target}."), inner),
                }
            }
        };
        let within = !prefix.is_empty();
        let known = &self.known[usize::from(within)];
        if inner == "limits" {
            return self.limits(&name, at, node);
        }
        if known.contains(&inner) {
            return self.value(name, at, &node);
        }
        let below = format!("{inner}.");
        if name == "targets" || known.iter().any(|known| known.starts_with(&below)) {
            return self.section(&name, node);
        }
        // In a target, what is known outside of it would be a bad hint.
        let others = (!within).then_some("targets");
        let nearest = nearest(&inner, known.iter().map(String::as_str).chain(others));
        let nearest = nearest.map(|nearest| format!("{prefix}{nearest}"));
        Err(ConfigError::unknown(&self.origin(&name, at), nearest))
    }

    /// Whether there may be a target of this name.
    fn target(&mut self, target: &str, at: Location) -> Result<(), ConfigError> {
        // A URL that was meant to be one may hold a password.
        let shown = without_password(target);
        let origin = self.origin(&format!("targets.{shown}"), at);
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if target.is_empty() || target.len() > MOST_NAME || !target.bytes().all(plain) {
            let expected = "a name of 1 to 64 letters, digits, - and _";
            return Err(ConfigError::new(origin, shown, expected));
        }
        let name = format!("targets.{target}");
        if self.seen.insert(name.clone()) {
            self.targets.push(at);
            self.put(name, origin, Vec::new());
        }
        Ok(())
    }

    fn limits(&mut self, name: &str, at: Location, node: Spanned<Node>) -> Result<(), ConfigError> {
        self.once(name, at)?;
        let origin = self.origin(name, node.referenced);
        let items = match node.value {
            Node::List(items) => items,
            Node::Nothing => Vec::new(),
            other => return Err(ConfigError::new(origin, other.shown(), "a list")),
        };
        self.put(name.to_owned(), origin, Vec::new());
        for (index, item) in items.into_iter().enumerate() {
            let name = format!("{name}[{index}]");
            let origin = self.origin(&name, item.referenced);
            let fields = self.entries(&name, item)?;
            let given: Vec<&str> = fields.iter().map(|(key, _)| key.value.as_str()).collect();
            self.put(name.clone(), origin, vec![given.join(", ")]);
            for (key, node) in fields {
                let field = format!("{name}.{}", key.value);
                if !OF_LIMITS.contains(&key.value.as_str()) {
                    let nearest = nearest(&key.value, OF_LIMITS.into_iter());
                    let origin = self.origin(&field, key.referenced);
                    return Err(ConfigError::unknown(&origin, nearest));
                }
                if let ("match", Node::Plain(number)) = (&*key.value, &node.value) {
                    // Written as 007, it is 7 by now.
                    let origin = self.origin(&field, node.referenced);
                    return Err(ConfigError::new(origin, number, "text"));
                }
                self.value(field, key.referenced, &node)?;
            }
        }
        Ok(())
    }

    /// Takes the value of a known name.
    fn value(
        &mut self,
        name: String,
        at: Location,
        node: &Spanned<Node>,
    ) -> Result<(), ConfigError> {
        self.once(&name, at)?;
        let flag = match name.strip_prefix("targets.") {
            Some(rest) => rest.split_once('.').map_or("", |(_, flag)| flag),
            None => &name,
        };
        let one = |node: &Node| match node {
            Node::Plain(text) | Node::Text(text) => Some(text.clone()),
            _ => None,
        };
        let values: Option<Vec<String>> = match &node.value {
            Node::List(items) if may_repeat(flag) && !items.is_empty() => {
                items.iter().map(|item| one(&item.value)).collect()
            }
            node => one(node).map(|text| vec![text]),
        };
        let origin = self.origin(&name, node.referenced);
        let mut values =
            values.ok_or_else(|| ConfigError::new(&origin, node.value.shown(), "a value"))?;
        if find(flag).is_some_and(|setting| setting.value == "FILE") {
            for path in values.iter_mut().filter(|path| !path.is_empty()) {
                *path = self.folder.join(&*path).display().to_string();
            }
        }
        self.put(name, origin, values);
        Ok(())
    }

    /// Refuses what stands in the file twice, once nested and once with dots.
    fn once(&mut self, name: &str, at: Location) -> Result<(), ConfigError> {
        if self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        Err(self.malformed(Some(at), &format!("{name} stands here again")))
    }

    fn put(&mut self, name: String, origin: String, values: Vec<String>) {
        self.values.put(name, Typed { origin, values });
    }
}

/// Whether a target has this setting for itself.
fn of_targets(flag: &str) -> bool {
    OF_TARGETS.iter().any(|start| flag.starts_with(start))
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
    fn odd_names_are_unknown_and_never_passed_over() {
        for name in [
            "targets.eu.",
            "targets.eu..redis.url",
            "targets.eu.targets",
            "limits.match",
            "'limits[0].match'",
            "redis.url.x",
            "redis.",
            "''",
            "'.'",
            "config.file",
            "targets.eu.web",
        ] {
            for value in ["", " 1"] {
                let text = format!("{name}:{value}\n");
                let read = read(&text);
                let error = read.unwrap_err().to_string();
                assert!(error.contains(" in f.yml:1:1: not known here"), "{error}");
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
        let text = "redis.timeout: 2s\ntargets:\n  eu:\n    redis: {url: redis://r:1}\n    invariants.high_latency.threshold: 1s\n";
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
