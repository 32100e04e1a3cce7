//! One line of a recording. Its counters stand in two buffers, keys in the one and figures in the other, so that a line
//! with a hundred of them costs two allocations and not a hundred.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::clock::Moment;
use crate::observation::{
    Counter, CounterView, CountersRead, FallenLimit, KeyLabel, Observation, decode_key, hash_key,
};

/// A line as it is read.
pub(super) type Line = Observation<Counters>;

/// The counters of one line.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    keys: Vec<u8>,
    figures: Vec<Figures>,
    /// Whether one of them says when it was counted.
    timed: bool,
}

/// What a counter says besides its key, which ends at `key_end` and begins where the one before ends.
#[derive(Clone, Copy, Debug)]
struct Figures {
    key_end: usize,
    count: u64,
    limit: u64,
    remaining: u64,
    window_ms: Option<u64>,
    fell_from: Option<FallenLimit>,
    counted_from: Option<Timestamp>,
    counted_at: Option<Timestamp>,
}

impl Counters {
    fn push(&mut self, counter: &Counter<Key<'_>>) {
        // Only a key with an escape of JSON's can hold a backslash, and those are few.
        if counter.key.0.contains('\\') {
            self.keys.extend_from_slice(&decode_key(&counter.key.0));
        } else {
            self.keys.extend_from_slice(counter.key.0.as_bytes());
        }
        self.timed |= counter.counted_at.is_some();
        self.figures.push(Figures {
            key_end: self.keys.len(),
            count: counter.count,
            limit: counter.limit,
            remaining: counter.remaining,
            window_ms: counter.window_ms,
            fell_from: counter.fell_from,
            counted_from: counter.counted_from,
            counted_at: counter.counted_at,
        });
    }

    /// The counters as the checker takes them.
    pub(super) fn views(&self) -> Vec<CounterView<'_>> {
        let mut begin = 0;
        let view = |figures: &Figures| {
            let key = &self.keys[begin..figures.key_end];
            begin = figures.key_end;
            CounterView {
                key,
                count: figures.count,
                limit: figures.limit,
                remaining: figures.remaining,
                window_ms: figures.window_ms,
                fell_from: figures.fell_from,
            }
        };
        self.figures.iter().map(view).collect()
    }

    /// When each of [`Self::views`] was counted, by its place there and in the order of time; a counter that was counted
    /// twice stands there twice. `None` if no counter says when: all belong to the moment of the line.
    pub(super) fn times(&self, at: Moment) -> Option<Vec<(Timestamp, usize)>> {
        if !self.timed {
            return None;
        }
        let mut times = Vec::with_capacity(self.figures.len());
        for (place, figures) in self.figures.iter().enumerate() {
            // Nothing was counted after the collection that it belongs to, whatever a file claims.
            let last = figures.counted_at.unwrap_or(at.steady).min(at.steady);
            times.extend(figures.counted_from.map(|first| (first.min(last), place)));
            times.push((last, place));
        }
        times.sort_unstable();
        Some(times)
    }

    fn hash_keys(&mut self) {
        let mut hashed = Vec::with_capacity(self.figures.len() * 16);
        let mut begin = 0;
        for figures in &mut self.figures {
            let key = &self.keys[begin..figures.key_end];
            begin = figures.key_end;
            hashed.extend_from_slice(hash_key(key).as_bytes());
            figures.key_end = hashed.len();
        }
        self.keys = hashed;
    }
}

/// Shows the keys of `line` as `label` says, unless they are hashes already.
pub(super) fn label_keys(line: &mut Line, label: KeyLabel) {
    if label == KeyLabel::Plain || line.keys_hashed {
        return;
    }
    line.counters.hash_keys();
    if let CountersRead::Partial { gone, .. } = &mut line.counters_read {
        for key in gone {
            *key = hash_key(&decode_key(key));
        }
    }
    let unjudged = std::mem::take(&mut line.unjudged).into_iter();
    line.unjudged = unjudged
        .map(|(key, reason)| (hash_key(&decode_key(&key)), reason))
        .collect();
}

/// `line` without its counters, as the checker takes it, and the counters.
pub(super) fn split(line: Line) -> (Observation, Counters) {
    let observation = Observation {
        counters: Vec::new(),
        nodes: line.nodes,
        node_metrics: line.node_metrics,
        redis_connected: line.redis_connected,
        observed_at: line.observed_at,
        steady_at: line.steady_at,
        keys_hashed: line.keys_hashed,
        redis: line.redis,
        api_up: line.api_up,
        default_limit: line.default_limit,
        counters_read: line.counters_read,
        unjudged: line.unjudged,
        totals: line.totals,
        failures: line.failures,
        collectors: line.collectors,
    };
    (observation, line.counters)
}

/// A key as it stands in the text, copied only where JSON escaped something.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Counters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Counters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of counters")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Counters, A::Error> {
                let mut counters = Counters::default();
                while let Some(counter) = list.next_element::<Counter<Key<'de>>>()? {
                    counters.push(&counter);
                }
                Ok(counters)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(counters: &str) -> Line {
        let text = format!(
            "{{\"nodes\":[],\"counters\":{counters},\"node_metrics\":{{}},\"redis_connected\":true}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    fn keys(line: &Line) -> Vec<Vec<u8>> {
        let views = line.counters.views();
        views.iter().map(|view| view.key.to_vec()).collect()
    }

    #[test]
    fn keys_of_any_bytes_come_back() {
        let written: [&[u8]; 5] = [b"a", b"", b"\xff\xfe", b"q\"\n", b"\\x41"];
        let counters: Vec<Counter> = written
            .iter()
            .map(|key| Counter {
                key: crate::observation::encode_key(key),
                count: 1,
                limit: 2,
                remaining: 1,
                window_ms: None,
                fell_from: None,
                counted_at: None,
                counted_from: None,
            })
            .collect();
        let line = line(&serde_json::to_string(&counters).unwrap());
        assert_eq!(keys(&line), written);
    }

    #[test]
    fn keys_are_hashed_once() {
        let counters = r#"[{"key":"user:1","count":1,"limit":2,"remaining":1}]"#;
        let mut plain = line(counters);
        label_keys(&mut plain, KeyLabel::Hash);
        assert_eq!(keys(&plain), [b"abc3a47b8ad18b85"]);
        let mut hashed = line(counters);
        hashed.keys_hashed = true;
        label_keys(&mut hashed, KeyLabel::Hash);
        assert_eq!(keys(&hashed), [b"user:1"]);
    }

    #[test]
    fn what_was_counted_twice_is_judged_twice_in_the_order_of_time() {
        let counters = r#"[
            {"key":"b","count":9,"limit":2,"remaining":0,
             "counted_from":"2026-01-01T00:00:01Z","counted_at":"2026-01-01T00:00:03Z"},
            {"key":"a","count":9,"limit":2,"remaining":0,"counted_at":"2026-01-01T00:00:02Z"}]"#;
        let at = Moment::from_wall("2026-01-01T00:00:05Z".parse().unwrap());
        let times = line(counters).counters.times(at).unwrap();
        let places: Vec<usize> = times.iter().map(|(_, place)| *place).collect();
        assert_eq!(places, [0, 1, 0]);
    }
}
