//! The built-in kinds of limiters.

use super::description::Description;
use crate::text::nearest;

/// The kinds with these names, and their files.
macro_rules! kinds {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../limiters/", $name, ".yml")))),*]
    };
}

/// The built-in kinds, by name: the files in `limiters/`.
pub const BUILT_IN: &[(&str, &str)] = kinds![
    "reference",
    "limits",
    "express-rate-limit",
    "rate-limiter-flexible",
    "nest-throttler",
    "fastify-rate-limit",
    "upstash",
    "bullmq",
    "litellm",
    "throttled-py",
    "pyrate-limiter",
    "drf",
    "django-ratelimit",
    "fastapi-limiter",
    "bottleneck",
    "zset-log",
    "gcra",
    "envoy-ratelimit",
    "kong",
    "spring-cloud-gateway",
    "apisix",
    "traefik",
    "redisson",
    "rack-attack",
    "rails",
    "laravel",
    "limitador",
    "dotnet",
    "tyk",
    "skipper",
];

/// The file of a kind, or what was expected, with the nearest name.
pub fn built_in(name: &str) -> Result<&'static str, String> {
    let found = BUILT_IN.iter().find(|(kind, _)| *kind == name);
    found.map(|(_, text)| *text).ok_or_else(|| {
        let near = nearest(name, BUILT_IN.iter().map(|(kind, _)| *kind));
        match near {
            Some(near) => format!("one of the kinds of limiters (did you mean {near}?)"),
            None => "one of the kinds that `ratelimiter-exporter limiters` lists".to_owned(),
        }
    })
}

/// The kinds with their titles, a line each.
pub fn list() -> String {
    let width = BUILT_IN
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, file) in BUILT_IN {
        let title = Description::parse(file).map(|description| description.title);
        let line = format!("{name:width$}  {}", title.unwrap_or_default());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_file_is_valid_and_has_the_name_of_its_kind() {
        for (name, text) in BUILT_IN {
            match Description::parse(text) {
                Ok(description) => assert_eq!(description.name, *name),
                Err(mistakes) => panic!("{name}: {mistakes:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_nearest() {
        assert!(built_in("referense").unwrap_err().contains("reference"));
        assert!(built_in("x").unwrap_err().contains("lists"));
    }
}
