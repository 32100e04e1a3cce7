//! A configuration file of any bytes. No file that it names is opened, and no host is looked up.

use std::path::Path;
use std::time::Duration;

use super::reader::MOST_SERIES;
use super::{Config, ConfigError, DEFAULT_TARGET, SETTINGS, Values, file, find};

/// What the file is called in errors.
const FILE: &str = "fuzzed.yml";

/// Checks that an error is one line of bounded length with a place in the file, whatever the YAML expands to, and that
/// a valid configuration is within the documented bounds.
pub(crate) fn config(text: &str) {
    match load(text) {
        Ok(config) => is_sound(&config),
        // A name that looks like a place could be taken for one.
        Err(_) if text.contains(FILE) => {}
        Err(error) => has_its_place(text, &error.to_string()),
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let mut values = Values::default();
    // Flags override the file: a host name in it would be resolved.
    let listen = find("web.listen-address").expect("no such setting");
    let address = "127.0.0.1:0".to_owned();
    values.add(listen, format!("--{}", listen.flag), vec![address]);
    let file = file::parse(text, "--config.file", FILE, Path::new(""))?;
    values.add_from(&file, |_| true);
    let config = Config::validated(&with_empty_files(&values))?;
    // The files that are named are empty, so they have no users.
    config.admits_actions(true)?;
    Ok(config)
}

/// `values` with an empty file for each that is named.
fn with_empty_files(values: &Values) -> Values {
    let mut replaced = Values::default();
    for (name, typed) in values.iter() {
        let mut typed = typed.clone();
        let mut files = SETTINGS.iter().filter(|setting| setting.value == "FILE");
        if files.any(|file| name.ends_with(file.flag)) {
            typed.values = vec!["/dev/null".to_owned()];
        }
        replaced.put(name.to_owned(), typed);
    }
    replaced
}

fn has_its_place(text: &str, error: &str) {
    assert_eq!(error.lines().count(), 1, "{error:?}");
    assert!(error.len() < 32 * 1024, "{} bytes of error", error.len());
    assert!(
        error.contains(": invalid value ") && error.contains("expected ")
            || error.contains(": not known here"),
        "{error:?}"
    );
    let place = error.split_once(&format!("{FILE}:")).and_then(|(_, rest)| {
        let (line, rest) = rest.split_once(':')?;
        let (column, _) = rest.split_once(':')?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    });
    let Some((line, column)) = place else {
        panic!("without a place: {error:?}");
    };
    // YAML has three line ends. An end that comes too soon is behind the last character.
    let text = text.replace("\r\n", "\n");
    let columns = match text.split(['\r', '\n']).nth(line.wrapping_sub(1)) {
        Some(line) => line.chars().count() + 1,
        None => panic!("no such line: {error:?}"),
    };
    assert!((1..=columns).contains(&column), "no such column: {error:?}");
}

fn is_sound(config: &Config) {
    assert!(config.targets.contains_key(DEFAULT_TARGET));
    let web = &config.web;
    assert!(
        !web.enable_admin_api || web.admin_api_insecure,
        "actions are accepted without a login"
    );
    assert!(web.max_connections > 0 && web.read_timeout > Duration::ZERO);
    for name in config.targets.keys() {
        let config = config.clone().select(name).expect("a target is not there");
        let observe = &config.observe;
        assert!(config.observe.max_series <= MOST_SERIES);
        assert!(!observe.redis.seeds.is_empty());
        for url in observe
            .ratelimiter_urls
            .iter()
            .chain(&observe.prometheus_url)
        {
            assert!(
                url.username().is_empty() && url.password().is_none(),
                "a URL with credentials is kept"
            );
        }
        for timeout in [
            observe.ratelimiter_timeout,
            observe.redis.timeout,
            observe.scan_budget,
            observe.registry.forget_after,
        ] {
            assert!(timeout > Duration::ZERO);
        }
        assert!(observe.scan_share >= 0.001 && observe.scan_share <= 1.0);
        assert!(
            observe.description.registry().is_none()
                || observe.registry.heartbeat * 2 < observe.registry.ttl
        );
        assert!(
            observe
                .limit_rules
                .iter()
                .all(|rule| rule.limit.window_ms > 0)
        );
    }
}
