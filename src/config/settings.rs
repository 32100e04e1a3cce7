//! The settings by name: what each is called, what it means, and where its value comes from. Flags beat the
//! environment, the environment beats the file, the file beats the default. Values are still text here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use super::{ConfigError, without_password};
use crate::text::one_line;

/// What the variables of all settings begin with.
const ENV_PREFIX: &str = "RATELIMITER_EXPORTER_";

/// How alike a name that was meant has to be to one that was written, from 0 to 1.
const LEAST_ALIKE: f64 = 0.6;

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

const fn setting(
    flag: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        flag,
        value,
        default,
        help,
    }
}

/// Every setting, in the order of the help text.
pub const SETTINGS: &[Setting] = &[
    setting(
        "web.listen-address",
        "HOST:PORT",
        Some(":9972"),
        "Address to serve on; without a host, every one, IPv6 and IPv4",
    ),
    setting(
        "web.telemetry-path",
        "PATH",
        Some("/metrics"),
        "Path of the metrics",
    ),
    setting(
        "web.config.file",
        "FILE",
        None,
        "TLS and users, in the format of Prometheus's web configuration file",
    ),
    setting(
        "web.enable-admin-api",
        "",
        Some("false"),
        "Accept POST /api/v1/actions/reset_counter, of who is authenticated by --web.config.file",
    ),
    setting(
        "web.admin-api-insecure",
        "",
        Some("false"),
        "Accept actions of anybody who reaches the port",
    ),
    setting(
        "web.max-connections",
        "N",
        Some("512"),
        "Connections served at once; more wait",
    ),
    setting(
        "web.read-timeout",
        "DURATION",
        Some("90s"),
        "For a request to arrive, and for an idle connection",
    ),
    setting(
        "web.enable-lifecycle",
        "",
        Some("false"),
        "Accept POST /-/reload, which reads the configuration anew as SIGHUP does",
    ),
    setting(
        "web.timeout-offset",
        "DURATION",
        Some("0.5s"),
        "Taken off Prometheus's scrape timeout, so that the answer arrives in time",
    ),
    setting(
        "web.runbook-url",
        "URL",
        None,
        "Where the runbooks are: the page at / links to URL/ALERT.md",
    ),
    setting(
        "ratelimiter.url",
        "URL",
        Some("http://localhost:8000"),
        "A node of the limiter; repeat or separate by commas: any will do for the API, all are probed",
    ),
    setting(
        "ratelimiter.timeout",
        "DURATION",
        Some("1s"),
        "For one request to a node",
    ),
    setting(
        "ratelimiter.bearer-token-file",
        "FILE",
        None,
        "File that holds the bearer token for the URLs of --ratelimiter.url",
    ),
    setting(
        "ratelimiter.username",
        "NAME",
        None,
        "User at the URLs of --ratelimiter.url",
    ),
    setting(
        "ratelimiter.password-file",
        "FILE",
        None,
        "File that holds the password at the URLs of --ratelimiter.url",
    ),
    setting(
        "ratelimiter.tls-ca-file",
        "FILE",
        None,
        "Certificates (PEM) to trust for the URLs of --ratelimiter.url, instead of the system's",
    ),
    setting(
        "ratelimiter.send-credentials-to-nodes",
        "",
        Some("false"),
        "Log in also at the addresses that nodes registered in Redis",
    ),
    setting(
        "probe.nodes",
        "BOOL",
        Some("true"),
        "Probe GET /health of each node",
    ),
    setting(
        "probe.canary",
        "",
        Some("false"),
        "Send each node a check of the exporter's own at each collection",
    ),
    setting(
        "redis.url",
        "URL",
        Some("redis://localhost:6379"),
        "The limiter's Redis: redis://HOST:PORT[,HOST:PORT…][/DB], redis+sentinel://HOST:PORT[,…]/NAME[/DB], redis+unix:///PATH; rediss for TLS; or valkey",
    ),
    setting("redis.username", "NAME", None, "Redis user (ACL)"),
    setting(
        "redis.password-file",
        "FILE",
        None,
        "File that holds the Redis password",
    ),
    setting(
        "redis.sentinel-username",
        "NAME",
        None,
        "User (ACL) at the sentinels",
    ),
    setting(
        "redis.sentinel-password-file",
        "FILE",
        None,
        "File that holds the password of the sentinels",
    ),
    setting(
        "redis.tls-ca-file",
        "FILE",
        None,
        "Certificates (PEM) to trust for Redis, instead of the system's",
    ),
    setting(
        "redis.tls-cert-file",
        "FILE",
        None,
        "The exporter's own certificate chain (PEM) for Redis",
    ),
    setting(
        "redis.tls-key-file",
        "FILE",
        None,
        "The key (PEM) of --redis.tls-cert-file",
    ),
    setting(
        "redis.tls-server-name",
        "NAME",
        None,
        "Name that the certificates of Redis bear, instead of the host",
    ),
    setting(
        "redis.prefer-replica",
        "",
        Some("false"),
        "Read the counters from a replica where one follows its primary",
    ),
    setting(
        "redis.timeout",
        "DURATION",
        Some("1s"),
        "For connecting to Redis, and for one answer",
    ),
    setting(
        "prometheus.url",
        "URL",
        None,
        "Ask this Prometheus for the latencies, instead of the nodes",
    ),
    setting(
        "prometheus.bearer-token-file",
        "FILE",
        None,
        "File that holds the bearer token for --prometheus.url",
    ),
    setting(
        "prometheus.username",
        "NAME",
        None,
        "User at --prometheus.url",
    ),
    setting(
        "prometheus.password-file",
        "FILE",
        None,
        "File that holds the password at --prometheus.url",
    ),
    setting(
        "prometheus.tls-ca-file",
        "FILE",
        None,
        "Certificates (PEM) to trust for --prometheus.url, instead of the system's",
    ),
    setting(
        "latency.metric",
        "NAME{label=\"value\"}",
        None,
        "The one latency histogram to read, in seconds, instead of the default list",
    ),
    setting(
        "keys.max-series",
        "N",
        Some("100"),
        "Keys that are exported, the highest utilization first; 0 to 100000",
    ),
    setting(
        "keys.label",
        "plain|hash",
        Some("plain"),
        "Show keys as they are, or as the start of their SHA-256",
    ),
    setting(
        "scan.budget",
        "DURATION",
        Some("5s"),
        "Time that one collection may spend on counters",
    ),
    setting(
        "scan.share",
        "RATIO",
        Some("0.2"),
        "Share of each Redis server's time that reading counters may take",
    ),
    setting(
        "limiter.kind",
        "NAME",
        Some("reference"),
        "The kind of limiter: one that ratelimiter-exporter limiters lists",
    ),
    setting(
        "limiter.file",
        "FILE",
        None,
        "A description of a kind of one's own, instead of --limiter.kind (docs/LIMITERS.md)",
    ),
    setting(
        "state.file",
        "FILE",
        None,
        "Where violations, nodes and limits survive a restart",
    ),
    setting(
        "config.file",
        "FILE",
        None,
        "YAML: any of these settings, invariants, nodes, limits",
    ),
    setting(
        "config.check",
        "",
        Some("false"),
        "Validate the configuration and exit: 0 valid, 2 not",
    ),
    setting(
        "log.level",
        "error|warn|info|debug|trace",
        Some("info"),
        "Least severe messages to log",
    ),
    setting(
        "log.format",
        "logfmt|json",
        Some("logfmt"),
        "How a log line is written",
    ),
];

/// The setting called `flag`.
pub fn find(flag: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.flag == flag)
}

/// Whether more than one value makes sense.
pub fn may_repeat(flag: &str) -> bool {
    flag == "ratelimiter.url"
}

/// What the environment says of settings, by the names of the variables. An empty variable counts as not set.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of `variables` that begin as ours do. One that is no setting's is a mistake of somebody's, unless Kubernetes
    /// made it for a service of the exporter's name.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut ours = BTreeMap::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(ENV_PREFIX) || value.is_empty() {
                continue;
            }
            let text = value.to_string_lossy();
            let mut names = SETTINGS.iter().map(|setting| env_name(setting.flag));
            if !names.any(|known| known == name) {
                if is_service_link(&name, &text) {
                    continue;
                }
                let names: Vec<String> = SETTINGS.iter().map(|one| env_name(one.flag)).collect();
                let nearest = most_alike(&name, names.iter().map(String::as_str));
                return Err(ConfigError::unknown(&one_line(&name), nearest));
            }
            match value.to_str() {
                Some(value) => ours.insert(name, value.to_owned()),
                None => return Err(ConfigError::new(name, text, "UTF-8")),
            };
        }
        Ok(Self(ours))
    }
}

/// Whether Kubernetes sets this variable in each pod of a namespace with a service whose name begins as ours.
fn is_service_link(name: &str, value: &str) -> bool {
    let link = |text: &str| {
        ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|it| text.starts_with(it))
    };
    let port = name.rsplit_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        let number = parts
            .next()
            .is_some_and(|number| number.parse::<u16>().is_ok());
        number
            && parts
                .next()
                .is_some_and(|it| ["TCP", "UDP", "SCTP"].contains(&it))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && link(value))
        || port
}

/// The one of `known` that is most like `written`, the first of equals; `None` if none is.
pub(super) fn most_alike<'a>(
    written: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let alike = known.map(|name| (strsim::normalized_damerau_levenshtein(written, name), name));
    let best = alike.fold(None, |best: Option<(f64, &str)>, one| match best {
        Some(best) if best.0 >= one.0 => Some(best),
        _ => Some(one),
    });
    let (_, name) = best.filter(|(alike, _)| *alike >= LEAST_ALIKE)?;
    Some(name.to_owned())
}

/// The environment variable of a flag.
pub fn env_name(flag: &str) -> String {
    let upper = flag.to_ascii_uppercase().replace(['.', '-'], "_");
    format!("{ENV_PREFIX}{upper}")
}

/// A value as typed, with the name by which the user knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Typed {
    /// `--redis.url`, `RATELIMITER_EXPORTER_REDIS_URL`, `redis.url in FILE`, or `default of --redis.url`.
    pub origin: String,
    /// The values; more than one only where a flag may be repeated.
    pub values: Vec<String>,
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|value| without_password(value));
        write!(f, "{}: {:?}", self.origin, shown.collect::<Vec<_>>())
    }
}

/// Values by flag name, each from the best source that has one.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, Typed>);

impl Values {
    /// Adds values of a source, unless a better one (added before) has them.
    pub fn add(&mut self, setting: &'static Setting, origin: String, values: Vec<String>) {
        self.0
            .entry(setting.flag)
            .or_insert(Typed { origin, values });
    }

    /// The same with the configuration file `path`, which `origin` named, instead of any other.
    #[must_use]
    pub fn with_file(mut self, origin: &str, path: &str) -> Self {
        let typed = Typed {
            origin: origin.to_owned(),
            values: vec![path.to_owned()],
        };
        self.0.insert("config.file", typed);
        self
    }

    /// Adds what the environment has.
    pub fn add_environment(&mut self, environment: &Environment) {
        for setting in SETTINGS {
            let name = env_name(setting.flag);
            if let Some(value) = environment.0.get(&name) {
                self.add(setting, name, vec![value.clone()]);
            }
        }
    }

    /// Adds those of `flags` that `other` has.
    pub fn add_from(&mut self, other: &Self, flags: &[&str]) {
        for (flag, typed) in &other.0 {
            if flags.contains(flag) {
                self.0.entry(flag).or_insert_with(|| typed.clone());
            }
        }
    }

    /// Adds the defaults.
    pub fn add_defaults(&mut self) {
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                let origin = format!("default of --{}", setting.flag);
                self.add(setting, origin, vec![default.to_owned()]);
            }
        }
    }

    /// The value of `flag`, if it has one.
    pub fn get(&self, flag: &str) -> Option<&Typed> {
        self.0.get(flag)
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
    fn flags_beat_environment_beats_file_beats_default() {
        let setting = find("redis.timeout").unwrap();
        let mut values = Values::default();
        values.add(
            setting,
            "--redis.timeout".to_owned(),
            vec!["1ms".to_owned()],
        );
        let variables = ["REDIS_TIMEOUT", "RATELIMITER_TIMEOUT"];
        let variables = variables.map(|name| (format!("{ENV_PREFIX}{name}").into(), "2ms".into()));
        values.add_environment(&Environment::new(variables).unwrap());
        values.add(setting, "file".to_owned(), vec!["3ms".to_owned()]);
        values.add_defaults();
        assert_eq!(values.get("redis.timeout").unwrap().values, ["1ms"]);
        assert_eq!(values.get("ratelimiter.timeout").unwrap().values, ["2ms"]);
        assert_eq!(values.get("scan.budget").unwrap().values, ["5s"]);
    }

    #[test]
    fn a_variable_that_is_no_settings_is_refused_unless_kubernetes_made_it() {
        use std::os::unix::ffi::OsStringExt as _;
        let read = |name: &str, value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            Environment::new([(OsString::from(name), value)])
                .map(|environment| environment.0.len())
                .map_err(|error| error.to_string())
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
            assert_eq!(read(name, value.as_bytes()), Ok(0), "{name}");
        }
        assert_eq!(read("RATELIMITER_EXPORTER_REDIS_TIMEOUT", b"1s"), Ok(1));
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
