//! Which primary serves which slots of a cluster, by the answer of one of its nodes.

use redis::{RedisResult, Value};

use crate::observation::Reason;
use crate::observe::redis::address::{host_of, join};
use crate::observe::redis::connector::Connector;
use crate::observe::redis::errors::{RedisFailure, not_connected};
use crate::observe::redis::router::Slots;

/// How many primaries are connected to at most. Redis's documentation gives this number as the largest sensible cluster. So
/// a node with wrong answers cannot make the exporter connect everywhere.
const MOST_PRIMARIES: usize = 1000;

/// A primary and its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Shard {
    /// `host:port`.
    pub(in crate::observe) primary: String,
    /// Ranges of slots, both ends included; empty without a cluster.
    pub(in crate::observe) slots: Vec<(u16, u16)>,
}

/// Asks for the slots and for the state of the cluster. The Redis user may lack the right to the state.
pub(in crate::observe) async fn ask_cluster(
    connector: &Connector,
) -> RedisResult<(Value, RedisResult<String>)> {
    let mut connection = connector.get().await?.0.connection;
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    pipe.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let answers: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_else(|| Err(not_connected()));
    let (slots, state) = (next()?, next());
    let state = state.and_then(|state| Ok(redis::from_redis_value::<String>(state)?));
    Ok((slots, state))
}

/// Which primary serves which slots, by the answer of `asked` to `CLUSTER SLOTS`. A primary without a host is on the host
/// of `asked`.
pub(in crate::observe) fn parse_slots(answer: &Value, asked: &str) -> Vec<Shard> {
    let mut shards: Vec<Shard> = Vec::new();
    let Value::Array(ranges) = answer else {
        return shards;
    };
    let asked_host = host_of(asked);
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(primary),
            ..,
        ] = &parts[..]
        else {
            continue;
        };
        let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(*last)) else {
            continue;
        };
        let [host, Value::Int(port), ..] = &primary[..] else {
            continue;
        };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() && host != b"?" => {
                String::from_utf8_lossy(host).into_owned()
            }
            _ => asked_host.to_owned(),
        };
        let primary = join(&host, &port.to_string());
        match shards.iter_mut().find(|shard| shard.primary == primary) {
            Some(shard) => shard.slots.push((first, last)),
            None => shards.push(Shard {
                primary,
                slots: vec![(first, last)],
            }),
        }
    }
    shards.sort_by_key(|shard| shard.slots.iter().min().copied());
    shards.truncate(MOST_PRIMARIES);
    shards
}

/// The failure of the cluster as a whole, by `CLUSTER INFO`.
pub(in crate::observe) fn problem(info: &str, shards: &[Shard]) -> Option<RedisFailure> {
    let fails = info.lines().any(|line| line.trim() == "cluster_state:fail");
    if !fails && !shards.is_empty() {
        return None;
    }
    let served: u32 = shards
        .iter()
        .flat_map(|shard| &shard.slots)
        .map(|(first, last)| u32::from(last.saturating_sub(*first)) + 1)
        .sum();
    let message = format!("CLUSTER INFO: cluster_state is fail; {served} of 16384 slots assigned");
    Some(RedisFailure::new(Reason::Clusterdown, message))
}

/// The ranges of `shards` in rising order, each with the index of its shard.
pub(in crate::observe) fn slots_of<'a>(shards: impl Iterator<Item = &'a Shard>) -> Slots {
    let mut slots: Slots = shards
        .enumerate()
        .flat_map(|(link, shard)| shard.slots.iter().map(move |&(a, b)| (a, b, link)))
        .collect();
    slots.sort_unstable();
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![
            Value::BulkString(host.as_bytes().to_vec()),
            Value::Int(port),
            Value::BulkString(b"id".to_vec()),
        ])
    }

    #[test]
    fn ranges_of_one_primary_are_one_shard_and_a_missing_host_is_that_of_the_node_asked() {
        let range = |first, last, port, host: &str| {
            let replica = node("10.0.0.9", 1);
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                node(host, port),
                replica,
            ])
        };
        let answer = Value::Array(vec![
            range(8000, 16383, 7001, ""),
            range(0, 100, 7000, "10.0.0.1"),
            range(200, 300, 7000, "10.0.0.1"),
        ]);
        let shards = parse_slots(&answer, "10.0.0.7:7001");
        let shown: Vec<_> = shards
            .iter()
            .map(|shard| (shard.primary.as_str(), shard.slots.as_slice()))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.1:7000", &[(0, 100), (200, 300)][..]),
                ("10.0.0.7:7001", &[(8000, 16383)][..]),
            ]
        );
        let slots = slots_of(shards.iter());
        assert_eq!(slots, [(0, 100, 0), (200, 300, 0), (8000, 16383, 1)]);
        let fail = problem("cluster_state:fail\r\n", &shards).unwrap();
        assert!(fail.message.contains("8586 of 16384"), "{}", fail.message);
        assert_eq!(problem("cluster_state:ok\r\n", &shards), None);
        assert!(problem("cluster_state:ok\r\n", &[]).is_some());
    }
}
