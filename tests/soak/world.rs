//! A limiter of the lab with its exporter, the events that change it, and the facts about it. Every process ends when
//! the world is dropped.

mod failover;
mod impaired;
mod keys;
mod nodes;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use lab::node::{NodeOptions, NodeProcess};
use lab::proxy::{Mode, Proxy};
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::exporter::Exporter;
use crate::facts::{Facts, Life, NodeFacts, Redis, Track, Way, figure};
use crate::sampling::{PATIENCE, millis};
use crate::schedule::{KEYS, Schedule, Times, What};
use crate::servers::Servers;

/// How long the exporter waits for Redis.
const REDIS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the world shares with the tasks that scrape and sample.
#[derive(Debug)]
pub(crate) struct Shared {
    start: Instant,
    pub(crate) facts: RefCell<Facts>,
    /// Where the exporter listens, while it runs.
    pub(crate) address: RefCell<Option<String>>,
    /// When the scrapes that are not answered yet began, by server: they may share a collection.
    pub(crate) in_flight: RefCell<BTreeMap<usize, f64>>,
}

impl Shared {
    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

struct Slot {
    process: NodeProcess,
    proxy: Proxy,
    /// Its place among the facts.
    facts: usize,
    /// Whether it should run and does not yet: without Redis it does not start.
    waits: bool,
}

/// The limiter. Fields are dropped in this order, so that no part notices the end of another.
pub(crate) struct World {
    pub(crate) shared: Rc<Shared>,
    exporter: Exporter,
    traffic: Option<Traffic>,
    malformed: Option<Traffic>,
    slots: Vec<Slot>,
    servers: Servers,
    /// Leads to the primary.
    front: Proxy,
    /// The exporter's way to a Redis without a replica.
    exporter_way: Proxy,
    connection: MultiplexedConnection,
    /// Since when the replica may lack writes.
    behind_since: Option<f64>,
    /// How many events under way make checks fail by themselves.
    poisons: u32,
    ids: usize,
    _folder: TempDir,
}

impl World {
    pub(crate) async fn start(schedule: &Schedule) -> anyhow::Result<Self> {
        let start = Instant::now();
        let now = || start.elapsed().as_secs_f64();
        let folder = TempDir::new("soak")?;
        let times = schedule.times;
        let servers = Servers::start(schedule.replica).await?;
        let front = Proxy::start(servers.address()).await?;
        let exporter_way = Proxy::start(servers.address()).await?;
        let sentinels = servers.sentinels();
        let redis = sentinels.unwrap_or_else(|| exporter_way.url("redis"));
        let (mut slots, mut nodes) = (Vec::new(), Vec::new());
        for number in 0..schedule.nodes {
            let proxy = Proxy::start(servers.address()).await?;
            let id = format!("node-{}", number + 1);
            let process = NodeProcess::start(node_options(&id, &proxy, times)).await?;
            nodes.push(born(id, process.address(), now()));
            slots.push(Slot {
                process,
                proxy,
                facts: number,
                waits: false,
            });
        }
        let urls: Vec<String> = slots.iter().map(|slot| slot.process.url()).collect();
        let config = folder.path().join("exporter.yml");
        std::fs::write(&config, settings(times))?;
        let mut args = vec![
            format!("--config.file={}", config.display()),
            format!("--redis.url={redis}"),
            format!("--ratelimiter.url={}", urls[0]),
            "--web.enable-lifecycle".to_owned(),
        ];
        if schedule.canary {
            args.push("--probe.canary=true".to_owned());
        }
        if schedule.state_file {
            let file = folder.path().join("state.json");
            args.push(format!("--state.file={}", file.display()));
        }
        let exporter = Exporter::start(folder.path(), args).await?;
        let at = now();
        let facts = Facts {
            times,
            nodes,
            configured: slots[0].process.address(),
            canary: schedule.canary,
            state_file: schedule.state_file,
            redis: Track::new(0.0, Redis::Up),
            emptied: Vec::new(),
            lost: Vec::new(),
            traffic: Track::new(at, 0),
            interval: Track::new(at, 1),
            exporter: Track::new(at, true),
            malformed_key: Track::new(at, false),
            samples: vec![Vec::new(); KEYS],
            limit_changes: vec![Vec::new(); KEYS],
            scrapes: Vec::new(),
            hiccups: Vec::new(),
        };
        let shared = Shared {
            start,
            facts: RefCell::new(facts),
            address: RefCell::new(Some(exporter.address().to_owned())),
            in_flight: RefCell::default(),
        };
        let connection = servers.primary().connection().await?;
        let mut world = Self {
            shared: Rc::new(shared),
            exporter,
            traffic: None,
            malformed: None,
            slots,
            servers,
            front,
            exporter_way,
            connection,
            behind_since: None,
            poisons: 0,
            ids: schedule.nodes,
            _folder: folder,
        };
        world.set_traffic(60)?;
        Ok(world)
    }

    fn now(&self) -> f64 {
        self.shared.seconds()
    }

    /// An event begins.
    pub(crate) async fn begin(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::NodeKilled(node) => {
                self.slots[node].process.kill();
                self.life(node, Life::Killed);
            }
            What::NodeReplaced(node) => self.replace(node).await?,
            What::NodeMoved(node) => self.relocate(node).await?,
            What::ClockAhead(node, ahead_ms) => self.set_clock_ahead(node, ahead_ms).await,
            What::NodeStopped(node) => self.stop(node).await?,
            What::RollingRestart => {
                for node in 0..self.slots.len() {
                    self.stop(node).await?;
                    self.slots[node].waits = true;
                    self.revive().await;
                }
            }
            What::NodeHung(node) => {
                if !self.slots[node].waits {
                    self.slots[node].process.pause()?;
                    self.life(node, Life::Hangs);
                }
            }
            What::LinkRefused(node) => self.way(node, Mode::Refuse, Way::Refused).await?,
            What::LinkHangs(node) => self.way(node, Mode::Hang, Way::Hangs).await?,
            What::SlowChecks(node, delay) => self.slow(node, delay).await,
            What::SomeSlowChecks(node, every) => {
                self.slow_now_and_then(node, every).await;
                self.set_traffic(2)?;
            }
            What::FailsOpen(node) => self.fail_open(node, true).await,
            What::LinkSlow(node, delay) => self.slow_link(node, delay).await?,
            What::NodeFar(node, delay) => self.set_distance(node, delay).await,
            What::HeartbeatsStop(node) => self.stop_heartbeats(node).await,
            What::ApiHangs(node) => self.hang_api(node).await,
            What::RedisKilled => self.kill_redis(),
            What::RedisRestarts => {
                self.ask(&["SAVE"]).await?;
                self.kill_redis();
            }
            What::RedisFar(delay) => self.move_redis_away(delay).await?,
            What::RedisStalls => {
                self.servers.primary_mut().pause()?;
                self.redis(Redis::Stalled);
            }
            What::RedisReadOnly => {
                self.ask(&["REPLICAOF", "127.0.0.1", "1"]).await?;
                self.behind_since.get_or_insert(self.shared.seconds());
                self.redis(Redis::ReadOnly);
            }
            What::RedisFull => {
                self.ask(&["CONFIG", "SET", "maxmemory", "1"]).await?;
                self.redis(Redis::Full);
            }
            What::RedisDenies => {
                self.ask(&["CONFIG", "SET", "requirepass", "nobody has it"])
                    .await?;
                self.redis(Redis::Denied);
                self.close_connections().await?;
            }
            What::ConnectionsClosed => self.close_connections().await?,
            What::RedisFailsOver(node, dies) => self.primary_goes(node, dies).await?,
            What::ReplicaBehind => self.replica_falls_behind().await?,
            What::Flushed => {
                let at = self.now();
                let flushed = self.ask(&["FLUSHALL"]).await;
                self.shared.facts.borrow_mut().emptied.push(at);
                flushed?;
            }
            What::CounterOver(key, more) => self.push_over(key, more).await?,
            What::LimitSet(key, limit) => self.set_limit(key, Some(&limit.to_string())).await?,
            What::LimitMalformed(key) => {
                self.poison(true);
                self.set_limit(key, Some("ten")).await?;
            }
            What::KeyMalformed => {
                self.poison(true);
                self.ask(&["SET", "ratelimit:bad:0", "x"]).await?;
                self.malformed = Some(self.traffic_of("bad:", 1, 1)?);
            }
            What::ExporterKilled => {
                self.exporter_runs(false);
                self.exporter.kill();
            }
            What::ExporterStopped => {
                self.exporter_runs(false);
                self.exporter.end().await?;
            }
            What::ExporterReloads => self.reload().await?,
            What::Traffic(rate) => self.set_traffic(rate)?,
            What::Interval(seconds) => self.set_interval(seconds),
        }
        Ok(())
    }

    /// An exporter that another event has stopped does not answer.
    async fn reload(&self) -> anyhow::Result<()> {
        let address = self.exporter.address();
        let answer = lab::http::request(address, Method::POST, "/-/reload", "", PATIENCE).await;
        if let Ok(answer) = answer {
            anyhow::ensure!(answer.status == 200, "a reload: {}", answer.text());
        }
        Ok(())
    }

    /// Only the exporter's network becomes slow.
    async fn move_redis_away(&self, delay: u64) -> anyhow::Result<()> {
        let delay = Duration::from_millis(delay);
        self.exporter_way.set(Mode::Delay(delay)).await?;
        if 2 * delay > REDIS_TIMEOUT {
            self.redis(Redis::Far);
        }
        Ok(())
    }

    /// A CLIENT KILL that was sent while Redis stalled takes effect later, and may cut the first connection.
    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let primary = self.servers.primary();
        match primary.connection().await {
            Ok(connection) => Ok(connection),
            Err(_) => primary.connection().await,
        }
    }

    fn kill_redis(&mut self) {
        self.redis(Redis::Dead);
        self.behind_since.get_or_insert(self.shared.seconds());
        self.servers.primary_mut().kill();
    }

    async fn start_redis(&mut self, with_data: bool) -> anyhow::Result<()> {
        self.servers.restart(with_data).await?;
        self.connection = self.servers.primary().connection().await?;
        self.redis(Redis::Up);
        Ok(())
    }

    async fn close_connections(&mut self) -> anyhow::Result<()> {
        self.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await
    }

    /// An event ends, and is undone.
    pub(crate) async fn end(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::NodeKilled(node) | What::NodeStopped(node) => {
                self.slots[node].waits = true;
                self.revive().await;
            }
            What::NodeHung(node) => {
                if !self.slots[node].waits {
                    self.slots[node].process.resume()?;
                    self.life(node, Life::Runs);
                }
            }
            What::LinkRefused(node) | What::LinkHangs(node) => {
                self.way(node, Mode::Pass, Way::Open).await?;
            }
            What::LinkSlow(node, _) => {
                self.way(node, Mode::Pass, Way::Open).await?;
                self.takes_longer(node, 0);
            }
            What::FailsOpen(node) => self.fail_open(node, false).await,
            What::NodeFar(node, _) => self.set_distance(node, 0).await,
            What::SlowChecks(node, _) => self.slow(node, 0).await,
            What::SomeSlowChecks(node, _) => {
                self.mend(node).await;
                self.set_traffic(60)?;
            }
            What::ApiHangs(node) => self.mend(node).await,
            What::HeartbeatsStop(node) => {
                self.mend(node).await;
                self.set_way(node, Way::Open);
            }
            What::ClockAhead(node, _) => self.set_clock_ahead(node, 0).await,
            What::RedisKilled => {
                let at = self.now();
                self.start_redis(false).await?;
                self.shared.facts.borrow_mut().emptied.push(at);
                self.malformed_again().await?;
            }
            What::RedisRestarts => self.start_redis(true).await?,
            What::RedisFar(_) => {
                self.exporter_way.set(Mode::Pass).await?;
                self.redis(Redis::Up);
            }
            What::RedisStalls => {
                self.servers.primary_mut().resume()?;
                self.redis(Redis::Up);
                self.connection = self.connect().await?;
            }
            What::RedisReadOnly => {
                self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
                self.redis(Redis::Up);
            }
            What::RedisFull => {
                self.ask(&["CONFIG", "SET", "maxmemory", "0"]).await?;
                self.redis(Redis::Up);
            }
            What::RedisDenies => {
                self.ask(&["CONFIG", "SET", "requirepass", ""]).await?;
                self.redis(Redis::Up);
            }
            What::RedisFailsOver(node, _) => {
                if self.shared.facts.borrow().redis.now() == Redis::FailsOver {
                    self.fail_over(None, self.now()).await?;
                }
                let proxy = &self.slots[node].proxy;
                proxy.lead_to(self.servers.address()).await?;
                self.way(node, Mode::Pass, Way::Open).await?;
                self.servers.rejoin().await?;
                self.behind_since = None;
            }
            What::ReplicaBehind => self.servers.mend_replica().await?,
            What::CounterOver(key, more) => self.take_back(key, more).await,
            What::LimitSet(key, _) => self.set_limit(key, None).await?,
            What::LimitMalformed(key) => {
                self.set_limit(key, None).await?;
                self.poison(false);
            }
            What::KeyMalformed => {
                if let Some(traffic) = self.malformed.take() {
                    traffic.stop().await;
                }
                self.poison(false);
            }
            What::ExporterKilled | What::ExporterStopped => {
                self.exporter.start_again().await?;
                let address = self.exporter.address().to_owned();
                self.shared.address.replace(Some(address));
                self.exporter_runs(true);
            }
            What::Interval(_) => self.set_interval(1),
            What::NodeReplaced(_)
            | What::NodeMoved(_)
            | What::RollingRestart
            | What::ConnectionsClosed
            | What::ExporterReloads
            | What::Flushed
            | What::Traffic(_) => {}
        }
        Ok(())
    }

    fn life(&self, node: usize, life: Life) {
        let at = self.now();
        let place = self.slots[node].facts;
        self.shared.facts.borrow_mut().nodes[place]
            .life
            .set(at, life);
    }

    async fn way(&self, node: usize, mode: Mode, way: Way) -> anyhow::Result<()> {
        self.slots[node].proxy.set(mode).await?;
        self.set_way(node, way);
        Ok(())
    }

    fn set_way(&self, node: usize, way: Way) {
        let at = self.now();
        let place = self.slots[node].facts;
        self.shared.facts.borrow_mut().nodes[place].way.set(at, way);
    }

    async fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        // It may end as soon as it has the signal.
        let stopping = self.now();
        if self.slots[node].waits {
            return Ok(());
        }
        self.slots[node].process.terminate().await?;
        let place = self.slots[node].facts;
        let mut facts = self.shared.facts.borrow_mut();
        facts.nodes[place].life.set(stopping, Life::Stopped);
        Ok(())
    }

    fn redis(&self, is: Redis) {
        let at = self.now();
        self.shared.facts.borrow_mut().redis.set(at, is);
    }

    fn exporter_runs(&self, runs: bool) {
        let at = self.now();
        if !runs {
            self.shared.address.replace(None);
        }
        self.shared.facts.borrow_mut().exporter.set(at, runs);
    }

    fn set_interval(&self, seconds: u64) {
        let at = self.now();
        self.shared.facts.borrow_mut().interval.set(at, seconds);
    }

    fn poison(&mut self, more: bool) {
        self.poisons = if more {
            self.poisons + 1
        } else {
            self.poisons.saturating_sub(1)
        };
        let at = self.now();
        let there = self.poisons > 0;
        self.shared.facts.borrow_mut().malformed_key.set(at, there);
    }

    fn set_traffic(&mut self, rate: u64) -> anyhow::Result<()> {
        self.traffic = match rate {
            0 => None,
            rate => Some(self.traffic_of("user:", KEYS, rate)?),
        };
        let at = self.now();
        self.shared.facts.borrow_mut().traffic.set(at, rate);
        Ok(())
    }

    fn traffic_of(&self, prefix: &str, keys: usize, rate: u64) -> anyhow::Result<Traffic> {
        Traffic::start(TrafficOptions {
            nodes: self
                .slots
                .iter()
                .map(|slot| slot.process.address())
                .collect(),
            keys,
            rate_per_second: figure(rate),
            key_prefix: prefix.to_owned(),
        })
    }

    async fn ask(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let asked = command.query_async::<redis::Value>(&mut self.connection);
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        if !matches!(answer, Ok(Ok(_)))
            && let Ok(connection) = self.servers.primary().connection().await
        {
            self.connection = connection;
        }
        answer.with_context(|| format!("{words:?}"))??;
        Ok(())
    }

    /// A client of the primary, for samples.
    pub(crate) fn client(&self) -> anyhow::Result<redis::Client> {
        Ok(redis::Client::open(self.front.url("redis"))?)
    }

    /// What the exporter logged.
    pub(crate) fn exporter_log(&self) -> String {
        self.exporter.log()
    }
}

fn node_options(id: &str, proxy: &Proxy, times: Times) -> NodeOptions {
    NodeOptions {
        default_window_ms: millis(times.window),
        heartbeat_seconds: Duration::from_secs_f64(times.heartbeat).as_secs(),
        ..NodeOptions::new(id, proxy.url("redis"))
    }
}

/// The exporter's configuration file.
fn settings(times: Times) -> String {
    format!(
        "latency.window: {}s
nodes: {{registration_ttl: {}s, heartbeat_interval: {}s}}
checker: {{unknown_hold: {}s}}
invariants:
  high_latency: {{grace_period: {}s}}
  counter_drift: {{grace_period: {}s}}
",
        times.latency_window,
        times.registration_ttl,
        times.heartbeat,
        times.unknown_hold,
        times.latency_grace,
        times.drift_grace,
    )
}

fn born(id: String, address: String, at: f64) -> NodeFacts {
    NodeFacts {
        id,
        address,
        moved: at,
        born: at,
        replaced: None,
        life: Track::new(at, Life::Runs),
        way: Track::new(at, Way::Open),
        delay: Track::new(at, 0),
        open: Track::new(at, false),
        ahead: Track::new(at, 0),
        checks: Vec::new(),
    }
}
