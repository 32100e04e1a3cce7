//! Reads the registrations of given nodes from Redis. Does not judge them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{RedisError, Value};

use crate::clock::Clock;
use crate::limiters::Registry;
use crate::observation::{Reason, decode_key, encode_key};
use crate::observe::http::management_api::registered_address;
use crate::observe::nodes::state::{ReadingTimes, Registration};
use crate::observe::redis::errors::{RedisFailure, is_unserved, reason_of};
use crate::observe::redis::router::{Answers, Router};

/// The registrations that were found, those that are malformed, and those that could not be read because their server did
/// not answer.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Registrations {
    pub(in crate::observe) found: BTreeMap<String, Registration>,
    pub(in crate::observe) malformed: Vec<(String, Reason)>,
    pub(in crate::observe) unread: BTreeSet<String>,
    /// Why the first of `unread` could not be read.
    pub(in crate::observe) why: Option<RedisFailure>,
    /// When the others were read.
    pub(in crate::observe) times: ReadingTimes,
    /// The links that broke meanwhile.
    pub(in crate::observe) broken: BTreeMap<usize, RedisError>,
}

/// The registrations of `ids` (escaped as [`encode_key`] does).
pub(in crate::observe) async fn registrations(
    router: &Router,
    clock: &Clock,
    registry: &Registry,
    ids: &[String],
) -> Registrations {
    let mut result = Registrations::default();
    if ids.is_empty() {
        return result;
    }
    let mut commands = Vec::with_capacity(ids.len() * 2);
    for id in ids {
        let key = registry.name_of(&decode_key(id));
        let mut fields = redis::cmd("HMGET");
        fields.arg(&key);
        for field in registry
            .address
            .groups()
            .chain(registry.registered_at.as_deref())
        {
            fields.arg(field);
        }
        let mut ttl = redis::cmd("PTTL");
        ttl.arg(&key);
        commands.push((key.clone(), fields));
        commands.push((key, ttl));
    }
    let begun = clock.now().steady;
    let Answers { each, broken, .. } = router.ask(commands).await;
    let read_at = clock.now().steady;
    result.broken = broken;
    for (id, pair) in ids.iter().zip(each.chunks(2)) {
        match pair {
            [Ok(Value::Array(fields)), Ok(Value::Int(ttl))] => {
                // -2: the key does not exist. A hash that exists has at least one field.
                if *ttl != -2 {
                    let ttl = u64::try_from(*ttl).ok().map(Duration::from_millis);
                    result
                        .found
                        .insert(id.clone(), of_fields(registry, fields, ttl));
                }
            }
            [Err(error), _] | [_, Err(error)] if is_unserved(error) => {
                result.unread.insert(id.clone());
                result.why.get_or_insert_with(|| {
                    let key = registry.name_of(&decode_key(id));
                    let link = router.link_of(&key).map(|link| &router.links()[link]);
                    let at = link.map_or("no server", |link| &link.primary);
                    RedisFailure::of(&format!("HMGET of registrations at {at}"), error)
                });
            }
            [Err(error), _] | [_, Err(error)] => {
                result.malformed.push((id.clone(), reason_of(error)));
            }
            _ => result.malformed.push((id.clone(), Reason::RedisError)),
        }
    }
    let read = ids.iter().filter(|id| !result.unread.contains(*id));
    result.times = read.map(|id| (id.clone(), (begun, read_at))).collect();
    result
}

/// The registration with these values of the fields of `registry`.
fn of_fields(registry: &Registry, values: &[Value], ttl: Option<Duration>) -> Registration {
    let value = |at: usize| match values.get(at) {
        Some(Value::BulkString(bytes)) => Some(bytes.as_slice()),
        _ => None,
    };
    let fields: Vec<&str> = registry.address.groups().collect();
    let whole = (0..fields.len()).all(|at| value(at).is_some());
    let filled = registry.address.fill(|name| {
        let at = fields.iter().position(|field| *field == name)?;
        value(at)
    });
    Registration {
        address: whole.then(|| registered_address(&encode_key(&filled))),
        registered_at: value(fields.len()).map(encode_key),
        ttl,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::Description;

    /// The registration by a registry with such an address.
    fn registration(address: &str, values: &[Option<&str>]) -> Registration {
        let text = format!(
            "name: own\ntitle: own\ncounters: [{{name: a, key: '^a(?P<key>.+)$', type: string, count: value, \
             refused: counted, expiry: required, without_expiry: leaks}}]\nnodes:\n  health: {{path: /}}\n  registry: {{key: '^n:(?P<id>.+)$', \
             address: '{address}', registered_at: since, ttl: 30s, renewed: 10s}}\n"
        );
        let description = Description::parse(&text).unwrap();
        let value = |text: Option<&str>| {
            text.map_or(Value::Nil, |text| {
                Value::BulkString(text.as_bytes().to_vec())
            })
        };
        let values: Vec<Value> = values.iter().copied().map(value).collect();
        of_fields(description.registry().unwrap(), &values, None)
    }

    #[test]
    fn an_address_is_a_field_or_made_of_fields() {
        for (address, values, expected) in [
            ("at", &[Some("h:1"), Some("now")][..], Some("h:1")),
            ("at", &[Some("http://h:1/"), Some("now")], Some("h:1")),
            ("at", &[None, Some("now")], None),
            (
                "$ip:$port",
                &[Some("10.0.0.1"), Some("80"), Some("now")],
                Some("10.0.0.1:80"),
            ),
            (
                "$ip:81",
                &[Some("10.0.0.1"), Some("now")],
                Some("10.0.0.1:81"),
            ),
            ("$ip:$port", &[Some("10.0.0.1"), None, Some("now")], None),
        ] {
            let found = registration(address, values);
            assert_eq!(found.address.as_deref(), expected, "{address}");
            assert_eq!(found.registered_at.as_deref(), Some("now"), "{address}");
        }
    }
}
