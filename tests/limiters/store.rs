//! A Redis in memory that answers the commands of descriptions, and no others.

use std::collections::BTreeMap;

use ratelimiter_exporter::limiters::{
    Answer, Ask, Counter, Description, Finding, Former, Http, Limits, MOST_BYTES, MOST_ENTRIES,
    Matched, NameContext, NameReader,
};
use serde_json::Value as Json;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Zset(Vec<(Vec<u8>, f64)>),
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    /// Sets and streams, which count nothing.
    Other(&'static str),
}

/// Keys with their values and PTTLs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) keys: BTreeMap<Vec<u8>, (Value, i64)>,
}

/// The limits from the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rule(pub(crate) Limits);

impl Rule {
    pub(crate) fn new(limit: Option<u64>, window_s: Option<u64>) -> Self {
        let window_ms = window_s.map(|seconds| seconds * 1000);
        Self(Limits {
            limit,
            window_ms,
            burst: None,
        })
    }

    pub(crate) fn burst(mut self, burst: u64) -> Self {
        self.0.burst = Some(burst);
        self
    }
}

impl Store {
    pub(crate) fn set(&mut self, key: &str, value: Value, pttl: i64) {
        self.keys.insert(key.as_bytes().to_vec(), (value, pttl));
    }

    pub(crate) fn string(&mut self, key: &str, value: &str, pttl: i64) {
        self.set(key, Value::String(value.as_bytes().to_vec()), pttl);
    }

    pub(crate) fn hash(&mut self, key: &str, fields: &[(&str, &str)], pttl: i64) {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        let fields = fields
            .iter()
            .map(|(field, value)| (bytes(field), bytes(value)));
        self.set(key, Value::Hash(fields.collect()), pttl);
    }

    pub(crate) fn zset(&mut self, key: &str, scores: &[f64], pttl: i64) {
        let members = scores.iter().enumerate();
        let members = members.map(|(index, score)| (index.to_string().into_bytes(), *score));
        self.set(key, Value::Zset(members.collect()), pttl);
    }

    /// The store at one moment of a capture.
    pub(crate) fn of_moment(moment: &Json) -> Self {
        let mut store = Self::default();
        for key in moment["keys"].as_array().unwrap() {
            let value = &key["value"];
            let value = match key["type"].as_str().unwrap() {
                "string" => Value::String(bytes(value)),
                "list" => Value::List(value.as_array().unwrap().iter().map(bytes).collect()),
                "zset" => Value::Zset(
                    value
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|pair| (bytes(&pair[0]), pair[1].as_str().unwrap().parse().unwrap()))
                        .collect(),
                ),
                "hash" => Value::Hash(
                    value
                        .as_object()
                        .unwrap()
                        .iter()
                        .map(|(field, value)| (field.clone().into_bytes(), bytes(value)))
                        .collect(),
                ),
                "set" => Value::Other("set"),
                "stream" => Value::Other("stream"),
                other => panic!("{other}"),
            };
            let pttl = key["pttl_ms"].as_i64().unwrap();
            store.keys.insert(bytes(&key["key"]), (value, pttl));
        }
        store
    }

    pub(crate) fn answer(&self, ask: &Ask) -> Answer {
        let found = self.keys.get(ask.key());
        match (ask, found) {
            (Ask::Type(_), None) => return Answer::Type("none".to_owned()),
            (Ask::Type(_), Some((value, _))) => return Answer::Type(value.kind().to_owned()),
            (Ask::Pttl(_), found) => return Answer::Integer(found.map_or(-2, |(_, pttl)| *pttl)),
            (Ask::Exists(_), found) => return Answer::Integer(i64::from(found.is_some())),
            _ => {}
        }
        let nothing = Value::String(Vec::new());
        match (ask, found.map_or(&nothing, |(value, _)| value)) {
            (Ask::Get(_), _) if found.is_none() => Answer::Missing,
            (Ask::Get(_), Value::String(text)) if text.len() > MOST_BYTES => Answer::TooLarge,
            (Ask::Get(_), Value::String(text)) => Answer::Text(text.clone()),
            (Ask::Fields(_, fields), Value::Hash(pairs)) => {
                let asked = |name: &Vec<u8>| fields.contains(name);
                let asked = pairs.iter().filter(|(name, _)| asked(name));
                if asked.map(|(_, value)| value.len()).sum::<usize>() > MOST_BYTES {
                    return Answer::TooLarge;
                }
                let value = |field: &Vec<u8>| {
                    pairs
                        .iter()
                        .find(|(name, _)| name == field)
                        .map(|(_, value)| value.clone())
                };
                Answer::Fields(fields.iter().map(value).collect())
            }
            (Ask::HasField(_, field), Value::Hash(pairs)) => {
                let has = pairs.iter().any(|(name, _)| name == field);
                Answer::Integer(i64::from(has))
            }
            (Ask::Fields(_, fields), _) if found.is_none() => {
                Answer::Fields(vec![None; fields.len()])
            }
            (Ask::AllFields(_), Value::Hash(pairs)) if pairs.len() > MOST_ENTRIES => {
                Answer::TooLarge
            }
            (Ask::AllFields(_), Value::Hash(pairs)) => Answer::Pairs(pairs.clone()),
            (Ask::List(_), Value::List(entries)) if entries.len() > MOST_ENTRIES => {
                let length = entries.len().try_into().unwrap();
                Answer::Long(length, entries.last().cloned().unwrap())
            }
            (Ask::List(_), Value::List(entries)) => {
                Answer::Fields(entries.iter().cloned().map(Some).collect())
            }
            (Ask::Count { min, max, .. }, Value::Zset(members)) => {
                let inside = members
                    .iter()
                    .filter(|(_, score)| score >= min && score <= max);
                Answer::Integer(inside.count().try_into().unwrap())
            }
            (Ask::Members { min, .. }, Value::Zset(members)) => {
                let inside = members.iter().filter(|(_, score)| score >= min);
                Answer::Fields(inside.map(|(member, _)| Some(member.clone())).collect())
            }
            (Ask::Count { .. } | Ask::HasField(..), _) if found.is_none() => Answer::Integer(0),
            _ if found.is_none() => Answer::Missing,
            _ => Answer::WrongType,
        }
    }

    /// Reads `name` to its finding.
    pub(crate) fn read_name(
        &self,
        description: &Description,
        rule: Rule,
        now_ms: u64,
        sampled: bool,
        name: &[u8],
    ) -> Finding {
        self.read_fallen(description, (rule, None), now_ms, sampled, name)
    }

    /// Reads `name` to its finding, under a rule whose limits may have fallen.
    pub(crate) fn read_fallen(
        &self,
        description: &Description,
        (rule, former): (Rule, Option<Former>),
        now_ms: u64,
        sampled: bool,
        name: &[u8],
    ) -> Finding {
        let rules = |_: &Counter, _: &Matched| rule.0;
        let api = |_: &Http, _: &Matched| Limits::default();
        let known = NameContext {
            rules: &rules,
            api: &api,
            former: &|_, _, _, _| former,
            now_ms,
            tolerance_ms: 2_000,
            sampled,
        };
        let mut reader = NameReader::begin(description, known, name, None);
        for _ in 0..16 {
            if let Some(finding) = reader.finding() {
                return finding.clone();
            }
            let answers: Vec<_> = reader.asks().iter().map(|ask| self.answer(ask)).collect();
            reader.feed(&answers);
        }
        panic!("{}: no end", String::from_utf8_lossy(name));
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Zset(_) => "zset",
            Self::Hash(_) => "hash",
            Self::Other(kind) => kind,
        }
    }
}

/// The bytes of a text in a capture, where `\xNN` is a byte that is not UTF-8.
fn bytes(text: &Json) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = rest.strip_prefix(b"\\x").and_then(|hex| {
            let hex = std::str::from_utf8(hex.get(..2)?).ok()?;
            u8::from_str_radix(hex, 16).ok()
        });
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &rest[4..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}
