//! Puts each capture into a real server with the clock of the dump, watched by the exporter as its kind. The counts at each
//! moment are those of the traffic, and nothing is reported. Faults are reported.
//!
//! The server's clock stays at the moment of the dump, so that no test depends on the speed of the machine.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use ratelimiter_exporter::limiters::Refused;

use crate::broken::{AT_LIMIT, STUCK, full_counter, overfill, spoil};
use crate::harness::{Exporter, Scrape};
use crate::rows::{ROWS, Row};
use crate::store::{Store, Value};

/// How many captures are tested at once.
const AT_ONCE: usize = 4;

/// A capture in a server, and its exporter.
struct Restored {
    row: &'static Row,
    server: RedisServer,
    exporter: Exporter,
    _folder: TempDir,
}

/// One of the five moments of a capture.
struct Moment {
    at_ms: i64,
    store: Store,
}

fn moment(row: &Row, index: usize) -> Moment {
    let moment = &row.moments()[index];
    Moment {
        at_ms: moment["at_ms"].as_i64().unwrap(),
        store: Store::of_moment(moment),
    }
}

impl Restored {
    async fn start(row: &'static Row) -> anyhow::Result<Self> {
        let server = RedisServer::start_at(moment(row, 0).at_ms, &[]).await?;
        let folder = TempDir::new("restored")?;
        let (kind, config) = (
            folder.path().join("kind.yml"),
            folder.path().join("exporter.yml"),
        );
        std::fs::write(&kind, row.file())?;
        let rules = row.rule().0;
        let rules = match (rules.limit, rules.window_ms) {
            (Some(limit), Some(ms)) => {
                format!("limits: [{{match: '*', limit: {limit}, window: {ms}ms}}]\n")
            }
            _ => String::new(),
        };
        let graces = "invariants:\n  stuck_counter: {grace_period: 0s}\n  invalid_counter: {grace_period: 0s}\n  counter_drift: {grace_period: 0s}\n";
        std::fs::write(&config, format!("{graces}{rules}"))?;
        let flags = [
            format!("--redis.url={}", server.url()),
            format!("--limiter.file={}", kind.display()),
            format!("--config.file={}", config.display()),
        ];
        let exporter = Exporter::start(&flags).await?;
        Ok(Self {
            row,
            server,
            exporter,
            _folder: folder,
        })
    }

    /// Replaces the data of the server by that of `moment`, at its time. No scrape sees a state in between.
    async fn restore(&self, moment: &Moment) -> anyhow::Result<()> {
        self.server.set_clock(moment.at_ms)?;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("FLUSHALL");
        for (name, (value, pttl)) in &moment.store.keys {
            match value {
                Value::String(text) => pipe.cmd("SET").arg(name).arg(text),
                Value::List(entries) => pipe.cmd("RPUSH").arg(name).arg(entries),
                Value::Zset(members) => {
                    pipe.cmd("ZADD").arg(name);
                    for (member, score) in members {
                        pipe.arg(score).arg(member);
                    }
                    &mut pipe
                }
                Value::Hash(fields) => {
                    pipe.cmd("HSET").arg(name);
                    for (field, value) in fields {
                        pipe.arg(field).arg(value);
                    }
                    &mut pipe
                }
                Value::Other("stream") => pipe.cmd("XADD").arg(name).arg("*").arg("a").arg("b"),
                Value::Other(_) => pipe.cmd("SADD").arg(name).arg("member"),
            };
            if *pttl >= 0 {
                let at = moment.at_ms + pttl;
                pipe.cmd("PEXPIREAT").arg(name).arg(at);
            }
        }
        let mut connection = self.server.connection().await?;
        pipe.query_async::<redis::Value>(&mut connection).await?;
        Ok(())
    }

    /// Scrapes until `holds`. `right` must hold for every report of every scrape.
    async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Scrape) -> bool,
        right: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Scrape> {
        let wrong = RefCell::new(BTreeSet::new());
        let scrape = self.exporter.until(what, |scrape| {
            let reported = scrape.reported().into_iter();
            let mut wrong = wrong.borrow_mut();
            wrong.extend(reported.filter(|reported| !right(reported)));
            !wrong.is_empty() || holds(scrape)
        });
        let scrape = scrape.await?;
        let wrong = wrong.into_inner();
        ensure!(wrong.is_empty(), "{what}: reported: {wrong:?}");
        Ok(scrape)
    }

    /// Checks that the counts at each moment are those of the traffic, and that nothing is reported.
    async fn counts(&self) -> anyhow::Result<()> {
        for index in 0..5 {
            let moment = moment(self.row, index);
            self.restore(&moment).await?;
            let expected = self.row.expected(index);
            let what = format!("moment {index} counts {expected:?}");
            let holds = |scrape: &Scrape| {
                let mut expected = expected.iter();
                let all = expected.all(|(label, count)| {
                    let requests = count_of(scrape, label).unwrap_or_default();
                    format!("{requests}") == count.to_string()
                });
                all && (self.row.counts[index].is_some() || live(scrape) <= usize::from(index == 4))
            };
            let scrape = self.until(&what, holds, |_| false).await?;
            let labels = scrape.labels("ratelimiter_key_requests", "key");
            let different: BTreeSet<_> = labels.iter().collect();
            ensure!(different.len() == labels.len(), "{what}: {labels:?}");
        }
        Ok(())
    }

    /// Checks that faults are reported until they are repaired.
    async fn breaks(&self) -> anyhow::Result<()> {
        let row = self.row;
        let (full, refused) = full_counter(row);
        let whole = moment(row, AT_LIMIT);
        let broken = |change: &dyn Fn(&mut Store)| {
            let mut broken = moment(row, AT_LIMIT);
            change(&mut broken.store);
            broken
        };
        let endless = broken(&|store| store.keys.values_mut().for_each(|(_, pttl)| *pttl = -1));
        self.restore(&endless).await?;
        let stuck = |reported: &str| reported.starts_with("stuck_counter ");
        if STUCK.contains(&row.capture) {
            let is_stuck = |scrape: &Scrape| scrape.reported().iter().any(|it| stuck(it));
            self.until("stuck without expiry", is_stuck, stuck).await?;
        } else {
            self.until("not stuck without expiry", is_read, |reported| {
                !stuck(reported)
            })
            .await?;
        }
        self.mended(&whole).await?;

        let over = broken(&|store| overfill(&mut store.keys.get_mut(&full).unwrap().0));
        self.restore(&over).await?;
        let above = |reported: &str| !stuck(reported);
        if refused == Refused::Counted {
            let proves = |reported: &str| !reported.starts_with("invalid_counter");
            // Nest writes a block with the first request above the limit. A counter above the limit without a block is invalid.
            let demand = |reported: &str| row.capture.starts_with("nest") && !proves(reported);
            self.until("demand above the limit", is_read, demand)
                .await?;
        } else {
            let found = |scrape: &Scrape| !scrape.reported().is_empty();
            self.until("above the limit", found, above).await?;
        }
        self.mended(&whole).await?;

        let spoiled = broken(&|store| spoil(&mut store.keys.get_mut(&full).unwrap().0, b"garbage"));
        self.restore(&spoiled).await?;
        let invalid = |reported: &str| reported.starts_with("invalid_counter ");
        let is_invalid = |scrape: &Scrape| scrape.reported().iter().any(|it| invalid(it));
        self.until("garbage", is_invalid, invalid).await?;
        self.mended(&whole).await
    }

    async fn mended(&self, whole: &Moment) -> anyhow::Result<()> {
        self.restore(whole).await?;
        let over = |scrape: &Scrape| scrape.reported().is_empty();
        self.until("nothing is reported any more", over, |_| true)
            .await?;
        Ok(())
    }
}

fn count_of(scrape: &Scrape, label: &str) -> Option<f64> {
    scrape.value("ratelimiter_key_requests", &[("key", label)])
}

/// Whether all counters were read.
fn is_read(scrape: &Scrape) -> bool {
    let counters = [("collector", "counters")];
    scrape.is("ratelimiter_scrape_collector_success", &counters, 1)
}

/// The number of clients with a count.
fn live(scrape: &Scrape) -> usize {
    let labels = scrape.labels("ratelimiter_key_requests", "key");
    let live = labels
        .iter()
        .filter(|label| !label.ends_with(" blocked"))
        .filter(|label| count_of(scrape, label).is_some_and(|count| count > 0.0));
    live.count()
}

/// One thread: server processes die with the thread that started them.
#[tokio::test]
async fn captures_on_a_server_at_their_time_count_their_traffic_and_are_found_once_broken()
-> anyhow::Result<()> {
    let tried = futures_util::stream::iter(ROWS).map(|row| async move {
        let tried = async {
            let restored = Restored::start(row).await?;
            restored.counts().await?;
            restored.breaks().await
        };
        tried.await.with_context(|| row.capture)
    });
    let tried: Vec<anyhow::Result<()>> = tried.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<String> = tried
        .into_iter()
        .filter_map(|tried| Some(format!("{:#}", tried.err()?)))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
