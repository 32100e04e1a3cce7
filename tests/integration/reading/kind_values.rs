//! Kinds of limiters on a real Redis that holds what no limiter writes: values of any size, empty ones, names that two counters
//! claim; and limits by rules.

use hyper::Method;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;

use crate::harness::{Exporter, Scrape};

/// A Redis that is watched by a description.
pub(super) struct Watched {
    pub(super) exporter: Exporter,
    flags: Vec<String>,
    connection: MultiplexedConnection,
    _redis: RedisServer,
    folder: TempDir,
}

impl Watched {
    /// By a description, or by the name of a kind that is built in, with further lines of the configuration file.
    pub(super) async fn start(kind: &str, config: &str) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&[]).await?;
        let folder = TempDir::new("kind-values")?;
        let own = folder.path().join("own.yml");
        let limiter = if kind.contains('\n') {
            std::fs::write(&own, kind)?;
            format!("--limiter.file={}", own.display())
        } else {
            format!("--limiter.kind={kind}")
        };
        let file = folder.path().join("exporter.yml");
        std::fs::write(&file, configured(config))?;
        let flags = [
            format!("--redis.url={}", redis.url()),
            format!("--config.file={}", file.display()),
            limiter,
            "--web.enable-lifecycle".to_owned(),
            format!("--state.file={}", folder.path().join("state").display()),
        ]
        .to_vec();
        Ok(Self {
            exporter: Exporter::start(&flags).await?,
            flags,
            connection: redis.connection().await?,
            _redis: redis,
            folder,
        })
    }

    pub(super) async fn run(&self, name: &str, args: &[&[u8]]) -> anyhow::Result<redis::Value> {
        let mut command = redis::cmd(name);
        command.arg(args);
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    /// Writes other lines of the configuration file, and has it read.
    pub(super) async fn reload(&self, config: &str) -> anyhow::Result<()> {
        self.write(config)?;
        let answer = self.exporter.send(Method::POST, "/-/reload", "").await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    }

    fn write(&self, config: &str) -> anyhow::Result<()> {
        let file = self.folder.path().join("exporter.yml");
        Ok(std::fs::write(&file, configured(config))?)
    }

    /// Writes another description.
    pub(super) fn describe(&self, description: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(
            self.folder.path().join("own.yml"),
            description,
        )?)
    }

    /// Ends the exporter as a service manager does.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.exporter.process.terminate().await?.success());
        Ok(())
    }

    /// Starts it with these lines of the configuration file, and the state that it left.
    pub(super) async fn start_again(&mut self, config: &str) -> anyhow::Result<()> {
        self.write(config)?;
        self.exporter = Exporter::start(&self.flags).await?;
        Ok(())
    }

    /// Everything that Redis has sent so far, in bytes.
    async fn sent(&self) -> anyhow::Result<u64> {
        let mut info = redis::cmd("INFO");
        info.arg("stats");
        let text: String = info.query_async(&mut self.connection.clone()).await?;
        let mut lines = text.lines();
        let sent = lines.find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        Ok(sent.unwrap_or_default().trim().parse()?)
    }
}

fn configured(config: &str) -> String {
    let graces = "invariants:\n  stuck_counter: {grace_period: 0s}\n  invalid_counter: {grace_period: 0s}\n  counter_drift: {grace_period: 0s}\n";
    format!("{graces}{config}")
}

const TEN: &str = "limits: [{match: '*', limit: 10, window: 60s}]\n";

/// Of each type whose values can be of any size.
const OWN: &str = "
name: own
title: own
counters:
  - {name: value, key: '^value:(?P<key>.+)$', label: $name, type: string, count: value, refused: counted, expiry: normal_without}
  - {name: field, key: '^field:(?P<key>.+)$', label: $name, type: hash, count: {hash: {field: n}}, refused: counted, expiry: normal_without}
  - {name: sum, key: '^sum:(?P<key>.+)$', label: $name, type: hash, count: {hash: {sum: true}}, refused: counted, expiry: normal_without}
  - {name: list, key: '^list:(?P<key>.+)$', label: $name, type: list, count: {log: {unit: s}}, refused: counted, expiry: normal_without}
  - {name: members, key: '^members:(?P<key>.+)$', label: $name, type: zset, count: {log: {unit: s, weight: last_four_bytes}}, refused: counted, expiry: normal_without}
";

/// Much more than is read of all values together.
const HUGE: usize = 4 << 20;

#[tokio::test]
async fn values_of_any_size_stay_in_redis_and_are_named() -> anyhow::Result<()> {
    let watched = Watched::start(OWN, TEN).await?;
    let huge = vec![b'9'; HUGE];
    watched.run("SET", &[b"value:a", &huge]).await?;
    watched.run("HSET", &[b"field:a", b"n", &huge]).await?;
    watched.run("HSET", &[b"sum:a", b"n", &huge]).await?;
    watched.run("HSET", &[b"sum:b", &huge, b"1"]).await?;
    watched
        .run("RPUSH", &[b"list:a", b"1", &huge, b"1"])
        .await?;
    watched
        .run("ZADD", &[b"members:a", b"4000000000", &huge])
        .await?;
    watched
        .run("HSET", &[b"sum:well", b"n", b"3", b"m", b"4"])
        .await?;
    let read = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.sort_unstable();
        reported == ["invalid_counter field:a", "invalid_counter value:a"]
            && scrape.errors("counters", "too_large") >= 4.0
            && scrape.is(
                "ratelimiter_invariant_evaluable",
                &[("name", "invalid_counter")],
                0,
            )
            && scrape.is("ratelimiter_key_requests", &[("key", "sum:well")], 7)
    };
    watched.exporter.until("each is named", read).await?;
    let before = watched.sent().await?;
    watched.exporter.scrape().await?;
    let sent = watched.sent().await? - before;
    assert!(sent < HUGE as u64, "{sent} bytes were sent");
    Ok(())
}

/// One counter that is compared with its limit, and one that counts what is refused.
const DEMAND: &str = "
name: own
title: own
counters:
  - {name: limited, key: '^limited:(?P<key>.+)$', label: $name, type: string, count: value, refused: not_counted, expiry: normal_without, limits: [{fixed: {limit: 10, window: 60s}}]}
  - {name: demand, key: '^demand:(?P<key>.+)$', label: $name, type: string, count: value, refused: counted, expiry: normal_without}
";

#[tokio::test]
async fn counters_of_demand_without_limits_count_once_and_hide_no_violation() -> anyhow::Result<()>
{
    let watched = Watched::start(DEMAND, "").await?;
    let all = ["limited:a", "demand:a", "demand:b", "demand:c"];
    let all: Vec<&[u8]> = all.iter().flat_map(|key| [key.as_bytes(), b"3"]).collect();
    watched.run("MSET", &all).await?;
    let read = |scrape: &Scrape| {
        scrape.errors("counters", "no_limit") > 0.0
            && scrape.is("ratelimiter_key_requests", &[("key", "limited:a")], 3)
    };
    watched.exporter.until("they are read", read).await?;
    for _ in 0..3 {
        let scrape = watched.exporter.scrape().await?;
        for invariant in ["counter_drift", "ghost_allowing", "invalid_counter"] {
            assert_eq!(scrape.evaluable(invariant), Some(true), "{invariant}");
        }
        let page = watched.exporter.get("/").await?.text();
        assert!(page.contains("3 keys skipped (no_limit)"), "{page}");
    }
    Ok(())
}

#[tokio::test]
async fn limits_in_an_api_that_no_setting_leads_to_are_missed_at_the_start() -> anyhow::Result<()> {
    let expected =
        "expected --ratelimiter.url, or rules under limits: limitador has limits in its API";
    let watched = Watched::start("limitador", "").await?;
    assert!(watched.exporter.log().contains(expected));
    let name = br#"namespace:{a},counter:{"namespace":"a","seconds":60,"conditions":[],"variables":["u"]},"set_variables":{"u":"1"}}"#;
    watched.run("SET", &[name, b"3", b"EX", b"60"]).await?;
    let read = |scrape: &Scrape| scrape.errors("counters", "no_limit") > 0.0;
    watched.exporter.until("it has no limit", read).await?;
    let page = watched.exporter.get("/").await?.text();
    assert!(page.contains(expected), "{page}");
    // Who writes rules may do without the API.
    watched.reload(TEN).await?;
    let read = |scrape: &Scrape| scrape.is("ratelimiter_key_requests_limit", &[], 10);
    watched.exporter.until("it has a limit", read).await?;
    assert_eq!(watched.exporter.log().matches(expected).count(), 1);
    Ok(())
}

/// A user of Redis may not be allowed to, and each refusal is a line in Redis's own log.
#[tokio::test]
async fn a_redis_that_does_not_measure_memory_is_not_asked_again() -> anyhow::Result<()> {
    let watched = Watched::start(OWN, TEN).await?;
    watched
        .run("ACL", &[b"SETUSER", b"default", b"-memory"])
        .await?;
    watched.run("HSET", &[b"sum:a", b"n", b"3"]).await?;
    let counted = |scrape: &Scrape| scrape.is("ratelimiter_key_requests", &[("key", "sum:a")], 3);
    watched.exporter.until("it is counted", counted).await?;
    watched.run("ACL", &[b"LOG", b"RESET"]).await?;
    watched.run("HSET", &[b"sum:a", b"n", b"4"]).await?;
    let counted = |scrape: &Scrape| scrape.is("ratelimiter_key_requests", &[("key", "sum:a")], 4);
    watched
        .exporter
        .until("it is counted again", counted)
        .await?;
    let log = watched.run("ACL", &[b"LOG"]).await?;
    assert_eq!(log, redis::Value::Array(Vec::new()));
    Ok(())
}

#[tokio::test]
async fn an_empty_value_is_no_number_and_not_a_missing_key() -> anyhow::Result<()> {
    let watched = Watched::start(OWN, TEN).await?;
    watched.run("SET", &[b"value:a", b""]).await?;
    let invalid = |scrape: &Scrape| scrape.reported() == ["invalid_counter value:a"];
    watched.exporter.until("it is invalid", invalid).await?;
    watched.run("DEL", &[b"value:a"]).await?;
    let gone = |scrape: &Scrape| scrape.reported().is_empty();
    watched.exporter.until("it is gone", gone).await?;
    Ok(())
}

#[tokio::test]
async fn counters_that_could_claim_one_key_are_named_once_in_the_log() -> anyhow::Result<()> {
    let own = OWN.replace("'^field:", "'^(?:field|sum):");
    let watched = Watched::start(&own, TEN).await?;
    for number in 0..100 {
        let name = format!("sum:{number}");
        watched.run("HSET", &[name.as_bytes(), b"n", b"1"]).await?;
    }
    let all = |scrape: &Scrape| scrape.is("ratelimiter_keys", &[], 100);
    watched.exporter.until("all are counted", all).await?;
    watched.exporter.scrape().await?;
    let log = watched.exporter.log();
    let warned = log
        .matches("counters field and sum could both claim a key")
        .count();
    assert_eq!(warned, 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_rule_for_every_key_leaves_limits_that_the_description_fixes() -> anyhow::Result<()> {
    let watched = Watched::start("nest-throttler", TEN).await?;
    let hits: &[&[u8]] = &[b"{user:1:default}:hits", b"4", b"PX", b"50000"];
    watched.run("SET", hits).await?;
    let blocked: &[&[u8]] = &[b"{user:2:default}:blocked", b"1", b"PX", b"50000"];
    watched.run("SET", blocked).await?;
    let limit = |scrape: &Scrape, key: &str, limit| {
        scrape.is("ratelimiter_key_requests_limit", &[("key", key)], limit)
    };
    let right = |scrape: &Scrape| limit(scrape, "user:1", 10) && limit(scrape, "user:2 blocked", 1);
    watched.exporter.until("each has its limit", right).await?;
    Ok(())
}

#[tokio::test]
async fn a_rule_that_names_keys_beats_what_the_description_fixes_and_may_have_a_burst()
-> anyhow::Result<()> {
    let own = "
name: own
title: own
counters:
  - name: value
    key: '^value:(?P<key>.+)$'
    type: string
    count: value
    refused: not_counted
    expiry: normal_without
    limits:
      - fixed: {limit: 5, window: 60s}
";
    let rules = "limits: [{match: 'vip:*', limit: 10, window: 60s, burst: 50}]\n";
    let watched = Watched::start(own, rules).await?;
    watched.run("SET", &[b"value:vip:1", b"50"]).await?;
    watched.run("SET", &[b"value:2", b"6"]).await?;
    let right = |scrape: &Scrape| {
        let limit =
            |key: &str, limit| scrape.is("ratelimiter_key_requests_limit", &[("key", key)], limit);
        let mut reported = scrape.reported();
        reported.sort_unstable();
        limit("vip:1", 50) && limit("2", 5) && reported == ["counter_drift 2", "ghost_allowing 2"]
    };
    watched.exporter.until("each has its limit", right).await?;
    Ok(())
}

/// Counters whose limits are stored beside them.
const STORED: &str = "
name: own
title: own
counters:
  - name: used
    key: '^used:(?P<key>.+)$'
    label: $name
    type: hash
    count: {hash: {field: n}}
    refused: not_counted
    expiry: {is: required, max: 1 window}
    without_expiry: leaks
    limits:
      - fields: {limit: limit, window: window, unit: s}
  - name: left
    key: '^left:(?P<key>.+)$'
    label: $name
    type: hash
    count: {hash: {field: n, down: true}}
    refused: counted
    expiry: normal_without
    limits:
      - fields: {limit: limit, window: window, unit: s}
";

fn limit_of(scrape: &Scrape, key: &str) -> Option<f64> {
    scrape.value("ratelimiter_key_requests_limit", &[("key", key)])
}

fn is(value: Option<f64>, expected: u32) -> bool {
    value == Some(f64::from(expected))
}

#[tokio::test]
async fn a_rule_that_is_lowered_excuses_what_was_legal_for_a_window_and_nothing_else()
-> anyhow::Result<()> {
    let own = OWN.replace("refused: counted", "refused: not_counted");
    let hour = |limit: u32| format!("limits: [{{match: '*', limit: {limit}, window: 1h}}]\n");
    let watched = Watched::start(&own, &hour(10)).await?;
    watched.run("SET", &[b"value:a", b"8"]).await?;
    let ten = |scrape: &Scrape| is(limit_of(scrape, "value:a"), 10);
    watched.exporter.until("10 are allowed", ten).await?;
    watched.reload(&hour(5)).await?;
    let five = |scrape: &Scrape| is(limit_of(scrape, "value:a"), 5);
    let scrape = watched.exporter.until("5 are allowed", five).await?;
    scrape.assert_reported(&[]);
    watched.run("SET", &[b"value:a", b"11"]).await?;
    let above = |scrape: &Scrape| {
        let reported = scrape.reported();
        reported.contains(&"ghost_allowing value:a".to_owned())
    };
    watched.exporter.until("11 were never", above).await?;
    Ok(())
}

#[tokio::test]
async fn a_stored_limit_that_is_lowered_excuses_counts_levels_and_expiries_of_before()
-> anyhow::Result<()> {
    let watched = Watched::start(STORED, "").await?;
    let used: &[&[u8]] = &[b"used:a", b"n", b"8", b"limit", b"10", b"window", b"3600"];
    watched.run("HSET", used).await?;
    watched.run("EXPIRE", &[b"used:a", b"3500"]).await?;
    let left: &[&[u8]] = &[b"left:a", b"n", b"9", b"limit", b"10", b"window", b"3600"];
    watched.run("HSET", left).await?;
    let limits = |scrape: &Scrape, limit: u32| {
        is(limit_of(scrape, "used:a"), limit) && is(limit_of(scrape, "left:a"), limit)
    };
    let ten = |scrape: &Scrape| limits(scrape, 10);
    watched.exporter.until("10 are allowed", ten).await?;
    let lowered: &[&[u8]] = &[b"used:a", b"limit", b"5", b"window", b"1800"];
    watched.run("HSET", lowered).await?;
    watched.run("HSET", &[b"left:a", b"limit", b"5"]).await?;
    let five = |scrape: &Scrape| is(limit_of(scrape, "used:a"), 5);
    for _ in 0..3 {
        let scrape = watched.exporter.until("5 are allowed", five).await?;
        scrape.assert_reported(&[]);
    }
    // A count that was not legal before is found.
    watched.run("HSET", &[b"used:a", b"n", b"11"]).await?;
    watched.run("EXPIRE", &[b"used:a", b"9000"]).await?;
    let found = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.sort_unstable();
        let all = ["counter_drift", "ghost_allowing", "invalid_counter"];
        reported == all.map(|name| format!("{name} used:a"))
    };
    watched
        .exporter
        .until("11 and 9000 s were never", found)
        .await?;
    Ok(())
}
