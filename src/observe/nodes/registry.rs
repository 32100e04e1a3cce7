//! Reads the registrations of given nodes from Redis. Does not judge them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{RedisError, Value};

use crate::observation::{Reason, decode_key, encode_key};
use crate::observe::nodes::state::Registration;
use crate::observe::redis::errors::{RedisFailure, is_unserved, reason_of};
use crate::observe::redis::router::{Answers, Router};

/// The prefix of every registration's key.
pub(in crate::observe) const NODE_PREFIX: &[u8] = b"ratelimiter:nodes:";

/// The registrations that were found, those that are malformed, and those that could not be read because their server did
/// not answer.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Registrations {
    pub(in crate::observe) found: BTreeMap<String, Registration>,
    pub(in crate::observe) malformed: Vec<(String, Reason)>,
    pub(in crate::observe) unread: BTreeSet<String>,
    /// Why the first of `unread` could not be read.
    pub(in crate::observe) why: Option<RedisFailure>,
    /// The links that broke meanwhile.
    pub(in crate::observe) broken: BTreeMap<usize, RedisError>,
}

/// The registrations of `ids` (escaped as [`encode_key`] does).
pub(in crate::observe) async fn registrations(router: &Router, ids: &[String]) -> Registrations {
    let mut result = Registrations::default();
    if ids.is_empty() {
        return result;
    }
    let mut commands = Vec::with_capacity(ids.len() * 2);
    for id in ids {
        let mut key = NODE_PREFIX.to_vec();
        key.extend(decode_key(id));
        let mut fields = redis::cmd("HMGET");
        fields.arg(&key).arg("address").arg("registered_at");
        let mut ttl = redis::cmd("PTTL");
        ttl.arg(&key);
        commands.push((key.clone(), fields));
        commands.push((key, ttl));
    }
    let Answers { each, broken, .. } = router.ask(commands).await;
    result.broken = broken;
    for (id, pair) in ids.iter().zip(each.chunks(2)) {
        match pair {
            [Ok(Value::Array(fields)), Ok(Value::Int(ttl))] => {
                // -2: the key does not exist. A hash that exists has at least one field.
                if *ttl != -2 {
                    let text = |field: Option<&Value>| match field {
                        Some(Value::BulkString(bytes)) => Some(encode_key(bytes)),
                        _ => None,
                    };
                    let registration = Registration {
                        address: text(fields.first()),
                        registered_at: text(fields.get(1)),
                        ttl: u64::try_from(*ttl).ok().map(Duration::from_millis),
                    };
                    result.found.insert(id.clone(), registration);
                }
            }
            [Err(error), _] | [_, Err(error)] if is_unserved(error) => {
                result.unread.insert(id.clone());
                result.why.get_or_insert_with(|| {
                    let key = [NODE_PREFIX, &decode_key(id)].concat();
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
    result
}
