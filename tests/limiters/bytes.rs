//! Any bytes in names and values end with a finding, for every kind.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ratelimiter_exporter::limiters::{
    BUILT_IN, Counter, Description, Http, Limits, Matched, NameContext, NameReader, Outcome, Type,
    never_fell,
};

use crate::rows::ROWS;
use crate::store::{Rule, Store, Value};

const NOW_MS: u64 = 1_795_691_687_250;

/// Texts that resemble what a limiter writes.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let odd = [
        "",
        "0",
        "-1",
        "-0",
        "9007199254740993",
        "18446744073709551616",
        "-170141183460469231731687303715884105729",
        "1e308",
        "-1e308",
        "1e-320",
        "nan",
        "inf",
        "0x1",
        " 1",
        "1.5",
        "[",
        "[[[[",
        "[1,2",
        "[1e400]",
        "{\"history\":[],\"reset\":-1}",
        "[1795691687250]",
        "1795691687",
        "1795691687250",
        "1795691687250000",
        "1795691687250000000",
        "60030886.165127002",
    ];
    prop_oneof![
        3 => select(odd.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        2 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        2 => any::<f64>().prop_map(|number| number.to_string().into_bytes()),
        2 => vec(any::<u8>(), 0..40),
        2 => vec(select(b"\x80\x04\x95]\x94(GAae.qr0\0".to_vec()), 0..60),
        1 => Just(vec![b'9'; 70_000]),
        1 => Just(vec![b'['; 60_000]),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let fields = select(vec![
        "tokens",
        "last_refreshed",
        "refilledAt",
        "refilled_at",
        "tat1",
        "reservoir",
        "reservoirRefreshAmount",
        "reservoirRefreshInterval",
        "lastReservoirRefresh",
        "excess",
        "last",
        "count",
        "start",
        "end",
        "default",
        "rate",
        "interval",
    ]);
    let fields = fields.prop_map(|field| field.as_bytes().to_vec());
    prop_oneof![
        texts().prop_map(Value::String),
        vec(texts(), 1..5).prop_map(Value::List),
        vec(
            (
                texts(),
                any::<f64>().prop_filter("a score is a number", |score| !score.is_nan())
            ),
            1..5
        )
        .prop_map(Value::Zset),
        vec((fields, texts()), 1..8).prop_map(Value::Hash),
        Just(Value::Other("set")),
    ]
}

/// Names of real limiters, and names that resemble them.
fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for row in ROWS {
        let moments = row.moments();
        names.extend(
            moments
                .iter()
                .flat_map(|moment| Store::of_moment(moment).keys.into_keys()),
        );
    }
    for name in [
        "edge_key_value_1795691640",
        "edge_key_value_9999999999",
        "ratelimit:00000000-0000-0000-0000-000000000000:00000000-0000-0000-0000-000000000000:k:1793491200000:month",
        "ratelimit:00000000-0000-0000-0000-000000000000:00000000-0000-0000-0000-000000000000:k:9999999999999:year",
        "request_rate_limiter.{a}.tokens",
        "plugin-limit-count:v1:/apisix/routes/1:1:k",
        "plugin-limit-count/apisix/routes/1:1:k",
        "plugin-limit-count:/apisix/routes/1:1:k.99999999999999999999.counter",
        "plugin-limit-count:/apisix/routes/1:1:k.29928194.counter",
        "limit_req:/r:1:k",
        "limit_conn:/r:1:k",
        "rate:a@file:k",
        "{a}:permits",
        "rack::attack:29928194:a:b",
        "rack::attack:0:a:b",
        "rack::attack:18446744073709551615:a:b",
        "rate-limit:a:b",
        "a-cache-0123456789abcdef0123456789abcdef",
        "a-database-0123456789abcdef0123456789abcdef",
        "rl:fw:{a}",
        "rl:tb:{a}",
        "rl:cc:{a}",
        "rate-limit-abc",
        "{rate-limit-abc}1795691640000000000",
        "quota-abc",
        "ratelimit.a.0a",
        "lkb.0a",
        "LIMITS:A/k/99999999999999999999/99999999999999999999/year",
        "LIMITS:{A/k/0/0/second}/-1",
        "@upstash/ratelimit:k:18446744073709551615",
        "@upstash/ratelimit:k:0",
        "",
    ] {
        names.push(name.as_bytes().to_vec());
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn no_bytes_break_any_kind() {
    let kinds: Vec<Description> = BUILT_IN
        .iter()
        .map(|(_, text)| Description::parse(text).unwrap())
        .collect();
    let names = names();
    let limit = || {
        prop_oneof![
            Just(None),
            Just(Some(0)),
            Just(Some(10)),
            any::<u64>().prop_map(Some)
        ]
    };
    let rule = (
        limit(),
        limit(),
        limit(),
        any::<bool>(),
        prop_oneof![9 => Just(NOW_MS), 1 => any::<u64>()],
    );
    let input = (
        vec(
            (
                select(names),
                values(),
                prop_oneof![Just(-1), -1..200_000_i64, any::<i64>()],
            ),
            1..5,
        ),
        rule,
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    });
    runner
        .run(
            &input,
            |(keys, (limit, window_ms, burst, sampled, now_ms))| {
                let mut store = Store::default();
                for (name, value, pttl) in keys {
                    store.keys.insert(name, (value, pttl));
                }
                let rule = Rule(Limits {
                    limit,
                    window_ms,
                    burst,
                });
                for kind in &kinds {
                    for name in store.keys.keys() {
                        let finding = store.read_name(kind, rule, now_ms, sampled, name);
                        if let Outcome::Counted(reading) = finding.outcome {
                            prop_assert!(
                                reading.is_over_limit() != Some(true)
                                    || reading.limits.capacity().is_some()
                            );
                        }
                    }
                }
                Ok(())
            },
        )
        .unwrap();
}

#[test]
fn answers_of_the_wrong_type_end_with_a_finding() {
    use ratelimiter_exporter::limiters::Answer;
    let answers = [
        Answer::Missing,
        Answer::WrongType,
        Answer::TooLarge,
        Answer::Integer(i64::MIN),
        Answer::Text(Vec::new()),
        Answer::Fields(Vec::new()),
        Answer::Fields(vec![None]),
        Answer::Pairs(Vec::new()),
        Answer::Type("none".to_owned()),
        Answer::Type("string".to_owned()),
        Answer::Type("hash".to_owned()),
    ];
    let rules = |_: &Counter, _: &Matched| Rule::new(Some(10), Some(60)).0;
    let api = |_: &Http, _: &Matched| Rule::new(Some(10), Some(60)).0;
    let known = NameContext {
        rules: &rules,
        api: &api,
        former: &never_fell,
        now_ms: NOW_MS,
        tolerance_ms: 2_000,
        sampled: true,
    };
    for (_, text) in BUILT_IN {
        let kind = Description::parse(text).unwrap();
        for name in names() {
            for answer in &answers {
                let mut reader = NameReader::begin(&kind, known, &name, Some(Type::String));
                for step in 0..16 {
                    if reader.finding().is_some() {
                        break;
                    }
                    assert!(step < 15, "{text}: {answer:?}");
                    // Every second step gets fewer answers than commands.
                    let given = vec![answer.clone(); reader.asks().len().saturating_sub(step % 2)];
                    reader.feed(&given);
                }
            }
        }
    }
}
