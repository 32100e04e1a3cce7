//! The configuration file: YAML with any of the settings (nested at the dots of their flags), and sections that have no
//! flags: `invariants`, `checker`, `nodes`, `limits`, and `targets` with all of this for further limiters. What is not
//! known is refused by its place and with the nearest name that is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::leaf::{Leaf, as_text, shown};
use super::settings::{SETTINGS, Values, find, may_repeat, most_alike};
use super::tree::{self, Entry, Kind, Node, Place};
use super::{ConfigError, without_password};
use crate::observation::Limit;
use crate::observe::LimitRule;
use crate::report::{InvariantName, Severity};
use crate::text::one_line;

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

/// The sections that have no flags, as far as they are given.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) invariants: BTreeMap<InvariantName, InvariantSection>,
    pub(super) checker: CheckerSection,
    pub(super) nodes: NodesSection,
    pub(super) limits: Option<Vec<LimitRule>>,
    pub(super) targets: BTreeMap<String, TargetSection>,
}

/// `invariants.NAME`.
#[derive(Debug, Default)]
pub(super) struct InvariantSection {
    pub(super) enabled: Option<bool>,
    pub(super) grace_period: Option<Duration>,
    /// Seconds for `high_latency`, a ratio for `counter_drift`.
    pub(super) threshold: Option<f64>,
    pub(super) severity: Option<Severity>,
}

/// `checker`: how time is treated, for all invariants.
#[derive(Debug, Default)]
pub(super) struct CheckerSection {
    pub(super) unknown_hold: Option<Duration>,
    pub(super) cleared_hold: Option<Duration>,
    pub(super) lowered_limit_grace: Option<bool>,
}

/// `nodes`: how the limiter's registry works.
#[derive(Debug, Default)]
pub(super) struct NodesSection {
    pub(super) registration_ttl: Option<Duration>,
    pub(super) heartbeat_interval: Option<Duration>,
    pub(super) forget_after: Option<Duration>,
    /// Where the last of the three was set.
    pub(super) origin: Option<String>,
}

/// `targets.NAME`.
#[derive(Debug, Default)]
pub(super) struct TargetSection {
    /// Where its name stands.
    pub(super) origin: String,
    pub(super) values: Values,
    pub(super) sections: Sections,
}

/// Reads the file at `path`, which `origin` named, into `values` and the sections.
pub(super) fn read(
    origin: &str,
    path: &Path,
    values: &mut Values,
) -> Result<Sections, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::new(origin, path.display(), format!("a readable file ({error})"))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = one_line(&path.display().to_string());
    parse(&text, origin, &file, folder, values)
}

/// The same for its `text`; places in it are told with the name `file`, paths in it are relative to `folder`.
pub(super) fn parse(
    text: &str,
    origin: &str,
    file: &str,
    folder: &Path,
    values: &mut Values,
) -> Result<Sections, ConfigError> {
    let root = tree::parse(text).map_err(|(place, why)| {
        let origin = match place {
            Some(place) => format!("{origin}: {file}:{place}"),
            None => origin.to_owned(),
        };
        ConfigError::new(origin, file, format!("valid YAML: {why}"))
    })?;
    let mut sections = Sections::default();
    let mut scope = Scope {
        file,
        folder,
        prefix: String::new(),
        known: known(|_| true),
        values,
        sections: &mut sections,
    };
    scope.read_all(root)?;
    Ok(sections)
}

/// Everything that may stand in the file or in a target, by its whole name.
fn known(setting: impl Fn(&str) -> bool) -> Vec<String> {
    let settings = SETTINGS.iter().map(|setting| setting.flag);
    let settings = settings.filter(|flag| !flag.starts_with("config.") && setting(flag));
    let fields = ["enabled", "grace_period", "threshold", "severity"];
    let invariants = InvariantName::ALL
        .iter()
        .flat_map(|name| fields.map(|field| format!("invariants.{name}.{field}")));
    let others = [
        "checker.unknown_hold",
        "checker.cleared_hold",
        "checker.lowered_limit_grace",
        "nodes.registration_ttl",
        "nodes.heartbeat_interval",
        "nodes.forget_after",
        "limits",
    ];
    settings
        .chain(others)
        .map(str::to_owned)
        .chain(invariants)
        .collect()
}

/// The one of `known`, or of the names that they begin with, that is most like `written`.
fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let candidates = known.flat_map(|name| {
        let dots = name.match_indices('.').map(|(at, _)| at);
        dots.chain([name.len()]).map(move |end| &name[..end])
    });
    most_alike(written, candidates)
}

/// The file, or a target of it, while it is read.
struct Scope<'a> {
    file: &'a str,
    /// What paths in it are relative to.
    folder: &'a Path,
    /// What every name in it begins with: `targets.NAME.`, or nothing.
    prefix: String,
    known: Vec<String>,
    values: &'a mut Values,
    sections: &'a mut Sections,
}

impl Scope<'_> {
    /// The place is behind the name, and stays there however long the name is.
    fn origin(&self, name: &str, at: Place) -> String {
        format!("{}{} in {}:{at}", self.prefix, one_line(name), self.file)
    }

    /// Everything that is below `node`, which is a mapping.
    fn read_all(&mut self, node: Node) -> Result<(), ConfigError> {
        for entry in self.entries("", node)? {
            if entry.key == "targets" && self.prefix.is_empty() {
                self.targets(entry.node)?;
            } else {
                self.entry("", entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, entry: Entry) -> Result<(), ConfigError> {
        let name = match path {
            "" => entry.key,
            path => format!("{path}.{}", entry.key),
        };
        if self.known.contains(&name) {
            return self.take(&name, entry.node);
        }
        let below = format!("{name}.");
        if !self.known.iter().any(|known| known.starts_with(&below)) {
            let origin = self.origin(&name, entry.at);
            // In a target, what is known outside of it would be a bad hint.
            let known = self.known.iter().map(String::as_str);
            let nearest = nearest(
                &name,
                known.chain(self.prefix.is_empty().then_some("targets")),
            );
            let nearest = nearest.map(|name| format!("{}{name}", self.prefix));
            return Err(ConfigError::unknown(&origin, nearest));
        }
        for entry in self.entries(&name, entry.node)? {
            self.entry(&name, entry)?;
        }
        Ok(())
    }

    /// The entries of a mapping; nothing at all is an empty one.
    fn entries(&self, name: &str, node: Node) -> Result<Vec<Entry>, ConfigError> {
        match node.kind {
            Kind::Map(entries) => Ok(entries),
            Kind::Scalar(Value::Null) => Ok(Vec::new()),
            kind => {
                let origin = match name {
                    "" if self.prefix.is_empty() => self.origin("the file", node.at),
                    "" => {
                        let target = self.prefix.trim_end_matches('.');
                        format!("{target} in {}:{}", self.file, node.at)
                    }
                    name => self.origin(name, node.at),
                };
                Err(ConfigError::new(origin, shown(&kind), "a mapping"))
            }
        }
    }

    /// Takes the value of a known name.
    fn take(&mut self, name: &str, node: Node) -> Result<(), ConfigError> {
        let origin = self.origin(name, node.at);
        if let Some(setting) = find(name) {
            let typed = match &node.kind {
                Kind::List(items) if may_repeat(name) => {
                    items.iter().map(as_text).collect::<Option<Vec<_>>>()
                }
                _ => as_text(&node).map(|one| vec![one]),
            };
            let typed = typed.filter(|typed| !typed.is_empty());
            let typed =
                typed.ok_or_else(|| ConfigError::new(&origin, shown(&node.kind), "a value"))?;
            let beside_file = |path: String| match &*path {
                "" => path,
                _ => self.folder.join(path).display().to_string(),
            };
            let typed = match setting.value {
                "FILE" => typed.into_iter().map(beside_file).collect(),
                _ => typed,
            };
            self.values.add(setting, origin, typed);
            return Ok(());
        }
        if name == "limits" {
            self.sections.limits = Some(self.limits(node)?);
            return Ok(());
        }
        let sections = &mut *self.sections;
        let leaf = Leaf {
            origin,
            node: &node,
        };
        match name.split('.').collect::<Vec<_>>()[..] {
            ["checker", "unknown_hold"] => sections.checker.unknown_hold = Some(leaf.duration()?),
            ["checker", "cleared_hold"] => sections.checker.cleared_hold = Some(leaf.duration()?),
            ["checker", _] => sections.checker.lowered_limit_grace = Some(leaf.switch()?),
            ["nodes", field] => {
                let nodes = &mut sections.nodes;
                let value = Some(leaf.timeout()?);
                match field {
                    "registration_ttl" => nodes.registration_ttl = value,
                    "heartbeat_interval" => nodes.heartbeat_interval = value,
                    _ => nodes.forget_after = value,
                }
                nodes.origin = Some(leaf.origin);
            }
            ["invariants", invariant, field] => {
                let mut all = InvariantName::ALL.into_iter();
                if let Some(name) = all.find(|name| name.name() == invariant) {
                    let section = sections.invariants.entry(name).or_default();
                    match field {
                        "enabled" => section.enabled = Some(leaf.switch()?),
                        "grace_period" => section.grace_period = Some(leaf.duration()?),
                        "severity" => section.severity = Some(leaf.severity()?),
                        _ => section.threshold = Some(leaf.threshold(name)?),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn limits(&self, node: Node) -> Result<Vec<LimitRule>, ConfigError> {
        let items = match node.kind {
            Kind::List(items) => items,
            Kind::Scalar(Value::Null) => Vec::new(),
            kind => {
                let origin = self.origin("limits", node.at);
                return Err(ConfigError::new(origin, shown(&kind), "a list"));
            }
        };
        let rules = items.into_iter().enumerate();
        rules
            .map(|(index, item)| self.limit(&format!("limits[{index}]"), item))
            .collect()
    }

    fn limit(&self, name: &str, item: Node) -> Result<LimitRule, ConfigError> {
        let fields = ["match", "limit", "window"];
        let at = item.at;
        let mut found: [Option<Node>; 3] = [None, None, None];
        for entry in self.entries(name, item)? {
            let place = fields.iter().position(|field| *field == entry.key);
            let Some(place) = place else {
                let origin = self.origin(&format!("{name}.{}", entry.key), entry.at);
                let nearest = nearest(&entry.key, fields.into_iter());
                return Err(ConfigError::unknown(&origin, nearest));
            };
            found[place] = Some(entry.node);
        }
        let [Some(pattern), Some(limit), Some(window)] = &found else {
            let given: Vec<_> = fields
                .iter()
                .zip(&found)
                .filter_map(|(field, found)| found.as_ref().map(|_| *field))
                .collect();
            let expected = "match, limit and window, all three";
            return Err(ConfigError::new(
                self.origin(name, at),
                given.join(", "),
                expected,
            ));
        };
        let leaf = |field: &str, node| self.leaf(&format!("{name}.{field}"), node);
        Ok(LimitRule {
            pattern: leaf("match", pattern).text()?,
            limit: Limit {
                limit: leaf("limit", limit).whole_number()?,
                window_ms: leaf("window", window).millis()?,
            },
        })
    }

    fn leaf<'n>(&self, name: &str, node: &'n Node) -> Leaf<'n> {
        Leaf {
            origin: self.origin(name, node.at),
            node,
        }
    }

    /// Further limiters, each by its name.
    fn targets(&mut self, node: Node) -> Result<(), ConfigError> {
        let entries = self.entries("targets", node)?;
        if let Some(beyond) = entries.get(MOST_TARGETS) {
            let origin = self.origin("targets", beyond.at);
            let given = format!("{} targets", entries.len());
            let expected = format!("{MOST_TARGETS} at most; further ones are another exporter's");
            return Err(ConfigError::new(origin, given, expected));
        }
        for Entry { key, at, node } in entries {
            // A URL that was meant to be one may hold a password.
            let shown = without_password(&key);
            let origin = self.origin(&format!("targets.{shown}"), at);
            let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
            if key.is_empty() || key.len() > MOST_NAME || !key.bytes().all(plain) {
                let expected = "a name of 1 to 64 letters, digits, - and _";
                return Err(ConfigError::new(origin, shown, expected));
            }
            let mut target = TargetSection {
                origin,
                ..TargetSection::default()
            };
            let mut scope = Scope {
                file: self.file,
                folder: self.folder,
                prefix: format!("targets.{key}."),
                known: known(of_targets),
                values: &mut target.values,
                sections: &mut target.sections,
            };
            scope.read_all(node)?;
            self.sections.targets.insert(key, target);
        }
        Ok(())
    }
}

/// Whether a target has this setting for itself.
pub(super) fn of_targets(flag: &str) -> bool {
    OF_TARGETS.iter().any(|start| flag.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let sections = parse(text, "--config.file", "f.yml", folder, &mut values).unwrap();
        let path = |values: &Values, flag| values.get(flag).unwrap().values.clone();
        assert_eq!(
            path(&values, "redis.password-file"),
            ["/etc/exporter/secret"]
        );
        assert_eq!(path(&values, "state.file"), ["/var/state"]);
        let target = &sections.targets["eu"].values;
        assert_eq!(
            path(target, "redis.password-file"),
            ["/etc/exporter/eu/secret"]
        );
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
            let read = parse(
                &text,
                "--config.file",
                "f.yml",
                Path::new(""),
                &mut Values::default(),
            );
            let error = read.unwrap_err().to_string();
            assert!(error.contains(" in f.yml:2:"), "{error}");
        }
    }

    #[test]
    fn a_target_has_values_and_sections_of_its_own() {
        let mut values = Values::default();
        let text = "redis.timeout: 2s\ntargets:\n  eu:\n    redis: {url: redis://r:1}\n    invariants.high_latency.threshold: 1s\n";
        let sections = parse(
            text,
            "--config.file",
            "f.yml",
            Path::new("/etc"),
            &mut values,
        )
        .unwrap();
        assert!(sections.invariants.is_empty());
        let target = &sections.targets["eu"];
        assert_eq!(
            target.values.get("redis.url").unwrap().origin,
            "targets.eu.redis.url in f.yml:4:18"
        );
        assert!(target.values.get("redis.timeout").is_none());
        assert_eq!(target.sections.invariants.len(), 1);
    }
}
