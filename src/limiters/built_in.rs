//! The built-in kinds of limiters.

use super::description::Description;
use crate::text::nearest;

/// The built-in kinds, by name: the files in `limiters/`.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("reference", include_str!("../../limiters/reference.yml")),
    ("limits", include_str!("../../limiters/limits.yml")),
    (
        "express-rate-limit",
        include_str!("../../limiters/express-rate-limit.yml"),
    ),
    (
        "rate-limiter-flexible",
        include_str!("../../limiters/rate-limiter-flexible.yml"),
    ),
    (
        "nest-throttler",
        include_str!("../../limiters/nest-throttler.yml"),
    ),
    (
        "fastify-rate-limit",
        include_str!("../../limiters/fastify-rate-limit.yml"),
    ),
    ("upstash", include_str!("../../limiters/upstash.yml")),
    ("bullmq", include_str!("../../limiters/bullmq.yml")),
    ("litellm", include_str!("../../limiters/litellm.yml")),
    (
        "throttled-py",
        include_str!("../../limiters/throttled-py.yml"),
    ),
    (
        "pyrate-limiter",
        include_str!("../../limiters/pyrate-limiter.yml"),
    ),
    ("drf", include_str!("../../limiters/drf.yml")),
    (
        "django-ratelimit",
        include_str!("../../limiters/django-ratelimit.yml"),
    ),
    (
        "fastapi-limiter",
        include_str!("../../limiters/fastapi-limiter.yml"),
    ),
    ("bottleneck", include_str!("../../limiters/bottleneck.yml")),
    ("zset-log", include_str!("../../limiters/zset-log.yml")),
    ("gcra", include_str!("../../limiters/gcra.yml")),
    (
        "envoy-ratelimit",
        include_str!("../../limiters/envoy-ratelimit.yml"),
    ),
    ("kong", include_str!("../../limiters/kong.yml")),
    (
        "spring-cloud-gateway",
        include_str!("../../limiters/spring-cloud-gateway.yml"),
    ),
    ("apisix", include_str!("../../limiters/apisix.yml")),
    ("traefik", include_str!("../../limiters/traefik.yml")),
    ("redisson", include_str!("../../limiters/redisson.yml")),
    (
        "rack-attack",
        include_str!("../../limiters/rack-attack.yml"),
    ),
    ("rails", include_str!("../../limiters/rails.yml")),
    ("laravel", include_str!("../../limiters/laravel.yml")),
    ("limitador", include_str!("../../limiters/limitador.yml")),
    ("dotnet", include_str!("../../limiters/dotnet.yml")),
    ("tyk", include_str!("../../limiters/tyk.yml")),
    ("skipper", include_str!("../../limiters/skipper.yml")),
];

/// The file of a kind, or an error that suggests the nearest name.
pub fn built_in(name: &str) -> Result<&'static str, String> {
    let found = BUILT_IN.iter().find(|(kind, _)| *kind == name);
    found.map(|(_, text)| *text).ok_or_else(|| {
        let near = nearest(name, BUILT_IN.iter().map(|(kind, _)| *kind));
        match near {
            Some(near) => format!("unknown kind of limiter {name:?} (did you mean {near}?)"),
            None => format!("unknown kind of limiter {name:?}: expected one that limiters lists"),
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
        assert!(built_in("x").unwrap_err().contains("expected"));
    }
}
