//! The settings: their names, their help texts, and the origin of each value. Flags override the environment, which
//! clap reads too. The environment overrides the file, and the file overrides the default. Values are still text here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use regex::Regex;

use super::{ConfigError, without_password};
use crate::text::{nearest, one_line};

/// The prefix of the variables of all settings.
const ENV_PREFIX: &str = "RATELIMITER_EXPORTER_";

/// One setting, by the name of its flag.
#[derive(Debug)]
pub struct Setting {
    /// The flag without its dashes, such as `redis.url`.
    pub flag: &'static str,
    /// What the value is, for the help text; empty for a switch.
    pub value: &'static str,
    /// The default, if there is one.
    pub default: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

/// Each row is one setting: what it does, its flag, what the value is, and the default if there is one.
macro_rules! settings {
    ($(#[doc = $help:literal] $flag:literal: $value:literal $(= $default:literal)?;)*) => {
        /// Every setting, in the order of the help text.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            flag: $flag,
            value: $value,
            default: settings!(@default $($default)?),
            help: $help.trim_ascii(),
        },)*];
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

settings! {
    /// Address to serve on; without a host, every address, IPv6 and IPv4
    "web.listen-address": "HOST:PORT" = ":9972";
    /// Path of the metrics
    "web.telemetry-path": "PATH" = "/metrics";
    /// TLS and users, in the format of Prometheus's web configuration file
    "web.config.file": "FILE";
    /// Accept POST /api/v1/actions/reset_counter from callers that --web.config.file authenticates
    "web.enable-admin-api": "" = "false";
    /// Accept actions without authentication, from every client that reaches the port
    "web.admin-api-insecure": "" = "false";
    /// Connections served at once; further ones wait
    "web.max-connections": "N" = "512";
    /// Timeout of a request that arrives, and of an idle connection
    "web.read-timeout": "DURATION" = "90s";
    /// Accept POST /-/reload, which reloads the configuration as SIGHUP does
    "web.enable-lifecycle": "" = "false";
    /// Time subtracted from Prometheus's scrape timeout, so that the answer arrives in time
    "web.timeout-offset": "DURATION" = "0.5s";
    /// URL of the folder with the runbooks: the page at / links to URL/ALERT.md
    "web.runbook-url": "URL";
    /// A node of the limiter; repeat or separate by commas: the exporter uses the API of any, and probes all
    "ratelimiter.url": "URL" = "http://localhost:8000";
    /// Timeout of one request to a node
    "ratelimiter.timeout": "DURATION" = "1s";
    /// File that holds the bearer token for the URLs of --ratelimiter.url
    "ratelimiter.bearer-token-file": "FILE";
    /// User at the URLs of --ratelimiter.url
    "ratelimiter.username": "NAME";
    /// File that holds the password at the URLs of --ratelimiter.url
    "ratelimiter.password-file": "FILE";
    /// Certificates (PEM) to trust for the URLs of --ratelimiter.url, instead of the system's
    "ratelimiter.tls-ca-file": "FILE";
    /// Also send the credentials to the addresses that nodes registered in Redis
    "ratelimiter.send-credentials-to-nodes": "" = "false";
    /// Ask each node for its health
    "probe.nodes": "BOOL" = "true";
    /// Send each node a canary at each collection: a check of the exporter's own
    "probe.canary": "" = "false";
    /// The limiter's Redis: redis://HOST:PORT[,HOST:PORT…][/DB], redis+sentinel://HOST:PORT[,…]/NAME[/DB], redis+unix:///PATH; rediss for TLS; or valkey
    "redis.url": "URL" = "redis://localhost:6379";
    /// Redis user (ACL)
    "redis.username": "NAME";
    /// File that holds the Redis password
    "redis.password-file": "FILE";
    /// User (ACL) at the sentinels
    "redis.sentinel-username": "NAME";
    /// File that holds the password of the sentinels
    "redis.sentinel-password-file": "FILE";
    /// Certificates (PEM) to trust for Redis, instead of the system's
    "redis.tls-ca-file": "FILE";
    /// The certificate chain (PEM) of the exporter for Redis
    "redis.tls-cert-file": "FILE";
    /// The key (PEM) of --redis.tls-cert-file
    "redis.tls-key-file": "FILE";
    /// Name in the certificates of Redis, instead of the host
    "redis.tls-server-name": "NAME";
    /// Read the counters from a replica, if one follows its primary
    "redis.prefer-replica": "" = "false";
    /// Timeout of connecting to Redis, and of one answer
    "redis.timeout": "DURATION" = "1s";
    /// Read the latencies from this Prometheus instead of the nodes
    "prometheus.url": "URL";
    /// File that holds the bearer token for --prometheus.url
    "prometheus.bearer-token-file": "FILE";
    /// User at --prometheus.url
    "prometheus.username": "NAME";
    /// File that holds the password at --prometheus.url
    "prometheus.password-file": "FILE";
    /// Certificates (PEM) to trust for --prometheus.url, instead of the system's
    "prometheus.tls-ca-file": "FILE";
    /// The one latency histogram to read, in seconds, instead of the default list
    "latency.metric": "NAME{label=\"value\"}";
    /// Time span that a node's p99 covers; 10s to 10m
    "latency.window": "DURATION" = "60s";
    /// How many keys are exported, the highest utilization first; 0 to 100000
    "keys.max-series": "N" = "100";
    /// Show keys as they are, or as the start of their SHA-256
    "keys.label": "plain|hash" = "plain";
    /// Time that one collection may spend on counters
    "scan.budget": "DURATION" = "5s";
    /// Largest share of each Redis server's time for reading counters
    "scan.share": "RATIO" = "0.2";
    /// The kind of limiter: one that ratelimiter-exporter limiters lists
    "limiter.kind": "NAME" = "reference";
    /// A file that describes your own kind of limiter, instead of --limiter.kind (docs/LIMITERS.md)
    "limiter.file": "FILE";
    /// File that keeps violations, nodes and limits over restarts
    "state.file": "FILE";
    /// YAML file with any of these settings, invariants, nodes, limits and targets
    "config.file": "FILE";
    /// Validate the configuration and exit: 0 valid, 2 not
    "config.check": "" = "false";
    /// Least severe messages to log
    "log.level": "error|warn|info|debug|trace" = "info";
    /// Format of log lines
    "log.format": "logfmt|json" = "logfmt";
}

/// The setting called `flag`.
pub fn find(flag: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.flag == flag)
}

/// Whether more than one value makes sense.
pub fn may_repeat(flag: &str) -> bool {
    flag == "ratelimiter.url"
}

/// Refuses a variable that has the prefix of the exporter's variables and belongs to no setting, unless Kubernetes made it
/// for a service with the exporter's name. An empty variable counts as not set.
pub fn check_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    let settings: Vec<String> = SETTINGS.iter().map(|one| env_name(one.flag)).collect();
    for (name, value) in variables {
        let (name, text) = (name.to_string_lossy(), value.to_string_lossy());
        if !name.starts_with(ENV_PREFIX) || text.is_empty() || is_service_link(&name, &text) {
            continue;
        }
        if !settings.iter().any(|setting| *setting == name) {
            let nearest = nearest(&name, settings.iter().map(String::as_str));
            let nearest = nearest.map(str::to_owned);
            return Err(ConfigError::unknown(&one_line(&name), nearest));
        }
        if value.to_str().is_none() {
            return Err(ConfigError::new(name, text, "UTF-8"));
        }
    }
    Ok(())
}

/// Whether Kubernetes sets this variable: in each pod of a namespace that has a service with the exporter's name.
fn is_service_link(name: &str, value: &str) -> bool {
    let links = "_SERVICE_HOST=|_SERVICE_PORT(_[^=]*)?=|_PORT_[0-9]+_(TCP|UDP|SCTP)(_[^=]*)?=|_PORT=(tcp|udp|sctp)://";
    Regex::new(links).is_ok_and(|links| links.is_match(&format!("{name}={value}")))
}

/// The environment variable of a flag.
pub fn env_name(flag: &str) -> String {
    let upper = flag.to_ascii_uppercase().replace(['.', '-'], "_");
    format!("{ENV_PREFIX}{upper}")
}

/// A value as it was typed, with its origin.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// `--redis.url`, `RATELIMITER_EXPORTER_REDIS_URL`, `redis.url in FILE:1:1`, or `default of --redis.url`.
    pub origin: String,
    /// The values: several only where a flag may be repeated, none for a mapping.
    pub values: Vec<String>,
}

impl Typed {
    /// One value.
    pub(super) fn new(origin: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            values: vec![value.into()],
        }
    }

    /// The value, the last one of several.
    pub(super) fn text(&self) -> &str {
        self.values.last().map_or("", String::as_str)
    }

    /// The error that the value is not as `expected`.
    pub(super) fn refused(&self, expected: impl fmt::Display) -> ConfigError {
        ConfigError::new(&self.origin, self.text(), expected)
    }

    /// The same, without what may be a password. For a value that should be a URL, and may be invalid in any way.
    pub(super) fn refused_url(&self, expected: impl fmt::Display) -> ConfigError {
        ConfigError::new(&self.origin, without_password(self.text()), expected)
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|value| without_password(value));
        f.debug_list().entries(shown).finish()
    }
}

/// The values that were given, by name, each from the source that overrides the others. Only a file has values without
/// a flag, such as `checker.unknown_hold` and `limits[0].match`. The names of a target begin with `targets.NAME`.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<String, Typed>);

impl Values {
    /// Adds values, unless a source that was added before has them.
    pub fn add(&mut self, setting: &'static Setting, origin: String, values: Vec<String>) {
        self.put(setting.flag.to_owned(), Typed { origin, values });
    }

    /// The same for any name.
    pub(super) fn put(&mut self, name: String, typed: Typed) {
        self.0.entry(name).or_insert(typed);
    }

    /// The same with the configuration file `path`, which `origin` named, instead of any other.
    #[must_use]
    pub fn with_file(mut self, origin: &str, path: &str) -> Self {
        self.0
            .insert("config.file".to_owned(), Typed::new(origin, path));
        self
    }

    /// Adds the values of `other` whose names `which` accepts.
    pub(super) fn add_from(&mut self, other: &Self, which: impl Fn(&str) -> bool) {
        for (name, typed) in other.iter().filter(|(name, _)| which(name)) {
            self.put(name.to_owned(), typed.clone());
        }
    }

    /// The value that was given for `name`.
    pub fn given(&self, name: &str) -> Option<&Typed> {
        self.0.get(name)
    }

    /// The value that was given for `name`, or else its default.
    pub(super) fn typed(&self, name: &str) -> Option<Typed> {
        self.given(name).cloned().or_else(|| {
            let default = find(name)?.default?;
            Some(Typed::new(format!("default of --{name}"), default))
        })
    }

    /// The values whose names begin with `prefix`, by the rest of their names.
    pub(super) fn below(&self, prefix: &str) -> Self {
        let inner = self.iter().filter_map(|(name, typed)| {
            let name = name.strip_prefix(prefix)?.to_owned();
            Some((name, typed.clone()))
        });
        Self(inner.collect())
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Typed)> {
        self.0.iter().map(|(name, typed)| (name.as_str(), typed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_names_follow_the_flags() {
        assert_eq!(
            env_name("redis.password-file"),
            "RATELIMITER_EXPORTER_REDIS_PASSWORD_FILE"
        );
    }

    #[test]
    fn a_variable_that_belongs_to_no_setting_is_refused_unless_kubernetes_made_it() {
        use std::os::unix::ffi::OsStringExt as _;
        let read = |name: &str, value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            check_variables([(OsString::from(name), value)]).map_err(|error| error.to_string())
        };
        for (name, value) in [
            ("RATELIMITER_EXPORTER_SERVICE_HOST", "10.0.0.1"),
            ("RATELIMITER_EXPORTER_SERVICE_PORT", "9972"),
            ("RATELIMITER_EXPORTER_SERVICE_PORT_METRICS", "9972"),
            ("RATELIMITER_EXPORTER_PORT", "tcp://10.0.0.1:9972"),
            ("RATELIMITER_EXPORTER_PORT_9972_TCP", "tcp://10.0.0.1:9972"),
            ("RATELIMITER_EXPORTER_PORT_9972_TCP_PROTO", "tcp"),
            ("RATELIMITER_EXPORTER_PORT_9972_TCP_PORT", "9972"),
            ("RATELIMITER_EXPORTER_PORT_9972_TCP_ADDR", "10.0.0.1"),
            ("RATELIMITER_EXPORTER_EU_SERVICE_HOST", "10.0.0.1"),
            ("RATELIMITER_EXPORTER_REDIS_TIEMOUT", ""),
            ("RATELIMITER_EXPORTERS", "x"),
            ("PATH", "\u{fffd}"),
        ] {
            assert_eq!(read(name, value.as_bytes()), Ok(()), "{name}");
        }
        assert_eq!(read("RATELIMITER_EXPORTER_REDIS_TIMEOUT", b"1s"), Ok(()));
        for (name, value, said) in [
            (
                "RATELIMITER_EXPORTER_REDIS_TIEMOUT",
                &b"redis://me:secret@h"[..],
                "RATELIMITER_EXPORTER_REDIS_TIEMOUT: not known here; did you mean RATELIMITER_EXPORTER_REDIS_TIMEOUT?",
            ),
            (
                "RATELIMITER_EXPORTER_WEB_PORT",
                b"9972",
                "RATELIMITER_EXPORTER_WEB_PORT: not known here; did you mean",
            ),
            (
                "RATELIMITER_EXPORTER_REDIS_USERNAME",
                b"\xff",
                "RATELIMITER_EXPORTER_REDIS_USERNAME: invalid value \"\u{fffd}\": expected UTF-8",
            ),
        ] {
            let error = read(name, value).unwrap_err();
            assert!(
                error.starts_with(said) && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
