//! The course of each application: honest traffic for several windows, then faults.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, ensure};
use futures_util::future::{join_all, try_join_all};
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use tokio::time::{Instant, sleep};

use crate::app::{App, Clock};
use crate::applications::{Application, Strategy};
use crate::expected::{self, Answers, BURST, LIMIT, WINDOW};
use crate::exporter::Exporter;
use crate::outages::flush;
use crate::table::Row;
use crate::{faults, outages};

/// The number of bursts of honest traffic. The limiter has forgotten the previous burst before each.
const ROUNDS: u32 = 2;

/// The extra wait after the windows in which clients are forgotten: more than a burst takes.
const BEYOND: Duration = Duration::from_secs(6);

/// The number of attempts at a step that must lie within one window, in case the machine is too busy.
const ATTEMPTS: u32 = 5;

/// The duration of the steady traffic far above the limit.
const STEADY: Duration = Duration::from_secs(50);

/// The time between two of its requests.
const STEADY_EVERY: Duration = Duration::from_millis(300);

/// An application with its Redis and, if requested, its exporter. The order of fields makes sure that none sees the end of
/// another.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) application: &'static Application,
    pub(crate) exporter: Option<Exporter>,
    pub(crate) app: App,
    pub(crate) redis: RedisServer,
    /// The logs. The last field, so that the folder exists until all others have ended.
    pub(crate) folder: TempDir,
}

/// The outcomes of a client's requests.
#[derive(Debug)]
struct Asked {
    strategy: &'static Strategy,
    client: String,
    answers: Answers,
    began: Instant,
    took: Duration,
}

/// Runs the whole course. An error says what was seen instead.
pub(crate) async fn run(
    application: &'static Application,
    with_exporter: bool,
) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::start(application, with_exporter).await?;
    let outcome = bench.whole().await;
    bench.explain(outcome)
}

impl Bench {
    /// Starts all of them.
    pub(crate) async fn start(
        application: &'static Application,
        with_exporter: bool,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new("limiters")?;
        let redis = RedisServer::start(&[]).await?;
        let app = App::start(
            application.file,
            Clock::Right,
            &redis.url(),
            LIMIT,
            folder.path(),
        )
        .await?;
        let exporter = if with_exporter {
            let args = exporter_args(application, &redis.url(), folder.path())?;
            Some(Exporter::start(folder.path(), args).await?)
        } else {
            None
        };
        Ok(Self {
            application,
            exporter,
            app,
            redis,
            folder,
        })
    }

    /// Adds the last output of the application to an error. The error comes first: the end of a long log may be cut off.
    pub(crate) fn explain<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        outcome.map_err(|error| {
            let output = self.app.last_output();
            anyhow!("{error:#}\nThe output of the application ends with:\n{output}")
        })
    }

    async fn whole(&mut self) -> anyhow::Result<Vec<Row>> {
        let mut answers = Answers::default();
        for round in 1..=ROUNDS {
            answers += self
                .burst("")
                .await
                .with_context(|| format!("burst {round}"))?;
            self.forget().await?;
        }
        let mut rows = vec![Row::nothing(
            "bursts below, at and far above the limit",
            answers,
        )];
        let answers = self.steady().await.context("steady traffic")?;
        rows.push(Row {
            event: "a client far above the limit for two windows and a half",
            expected: "nothing".to_owned(),
            seen: format!("nothing; {answers}"),
        });
        self.watches_this().await?;
        rows.extend(faults::broken(self).await.context("broken counters")?);
        rows.extend(faults::two_limits(self).await.context("another limit")?);
        rows.extend(outages::full(self).await.context("Redis full")?);
        rows.push(outages::flushed(self).await.context("FLUSHALL")?);
        let flushed = outages::scripts_flushed(self).await;
        rows.push(flushed.context("SCRIPT FLUSH")?);
        rows.extend(outages::away(self).await.context("Redis away and back")?);
        Ok(rows)
    }

    /// Each client of each strategy sends requests within one window: below, at and far above the limit. Nothing is reported
    /// meanwhile, and the exported counts are those of the answers. Then waits until all counters have forgotten the clients.
    pub(crate) async fn burst(&self, prefix: &str) -> anyhow::Result<Answers> {
        self.within_window(async || {
            let asked = self
                .quiet(async {
                    let clients = self.application.strategies.iter().flat_map(|strategy| {
                        BURST.map(|(client, times)| {
                            self.ask(strategy, format!("{prefix}{client}"), times)
                        })
                    });
                    Ok(join_all(clients).await)
                })
                .await?;
            for one in &asked {
                expected::fresh(one.strategy, one.answers, one.took)
                    .with_context(|| format!("/{} of {:?}", one.strategy.path, one.client))?;
            }
            self.counts(&asked).await?;
            let mut answers = Answers::default();
            for one in asked {
                answers += one.answers;
            }
            Ok(answers)
        })
        .await
    }

    /// Does this within one window, from its first half on. If the machine was so busy that another window began, a failure
    /// proves nothing: everything is deleted, and the step is repeated.
    pub(crate) async fn within_window<T>(
        &self,
        work: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut attempts = 1;
        loop {
            into_window().await;
            let began = window();
            let done = work().await;
            if done.is_ok() || window() == began || attempts == ATTEMPTS {
                return done;
            }
            attempts += 1;
            flush(self.redis.connection().await?, "FLUSHALL").await?;
            self.forget().await?;
        }
    }

    /// Sends requests of a client far above the limit, for several windows.
    async fn steady(&self) -> anyhow::Result<Answers> {
        let asked = self
            .quiet(async {
                let strategies = self.application.strategies.iter();
                Ok(join_all(strategies.map(|strategy| self.keep_asking(strategy))).await)
            })
            .await?;
        let mut answers = Answers::default();
        for one in asked {
            expected::steady(one.strategy, one.answers, one.took)
                .with_context(|| format!("/{}", one.strategy.path))?;
            answers += one.answers;
        }
        Ok(answers)
    }

    async fn ask(&self, strategy: &'static Strategy, client: String, times: u32) -> Asked {
        let mut answers = Answers::default();
        let began = Instant::now();
        for _ in 0..times {
            answers.count(self.app.ask(strategy.path, &client).await);
        }
        Asked {
            strategy,
            client,
            answers,
            began,
            took: began.elapsed(),
        }
    }

    async fn keep_asking(&self, strategy: &'static Strategy) -> Asked {
        let client = "steady".to_owned();
        let mut answers = Answers::default();
        let began = Instant::now();
        while began.elapsed() < STEADY {
            answers.count(self.app.ask(strategy.path, &client).await);
            sleep(STEADY_EVERY).await;
        }
        Asked {
            strategy,
            client,
            answers,
            began,
            took: began.elapsed(),
        }
    }

    /// Does `one` for each strategy.
    pub(crate) async fn each<T, Fut>(
        &self,
        each: impl Fn(&'static Strategy) -> Fut,
    ) -> anyhow::Result<Vec<T>>
    where
        Fut: Future<Output = anyhow::Result<T>>,
    {
        let all = self.application.strategies.iter().map(|strategy| {
            let one = each(strategy);
            async move { one.await.with_context(|| format!("/{}", strategy.path)) }
        });
        try_join_all(all).await
    }

    /// Waits until all strategies have forgotten all clients.
    async fn forget(&self) -> anyhow::Result<()> {
        let pause = self.memory() + BEYOND;
        self.quiet(async {
            sleep(pause).await;
            Ok(())
        })
        .await
    }

    /// The longest time that a strategy remembers a client.
    pub(crate) fn memory(&self) -> Duration {
        let strategies = self.application.strategies.iter();
        let windows = strategies.map(|strategy| strategy.forgets_after).max();
        WINDOW * windows.unwrap_or(1)
    }

    /// Does this while the exporter, if there is one, is scraped and must report nothing.
    pub(crate) async fn quiet<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        match &self.exporter {
            Some(exporter) => exporter.silent_while(work).await,
            None => work.await,
        }
    }

    /// Checks that the exported counts are those of the answers, and the limits those of the applications.
    async fn counts(&self, asked: &[Asked]) -> anyhow::Result<()> {
        let Some(exporter) = &self.exporter else {
            return Ok(());
        };
        let scrape = exporter.scrape().await?;
        for one in asked {
            let label = one.strategy.label_of(&one.client);
            let of_key = [("key", label.as_str())];
            let count = scrape.value("ratelimiter_key_requests", &of_key);
            let (least, most) =
                expected::exported(one.strategy, one.answers, scrape.ended - one.began);
            ensure!(
                count.is_some_and(|count| (f64::from(least)..=f64::from(most)).contains(&count)),
                "ratelimiter_key_requests{{key={label:?}}} is {count:?} after {}; expected {least} to {most}",
                one.answers
            );
            let limit = scrape.value("ratelimiter_key_requests_limit", &of_key);
            ensure!(
                limit.is_some_and(|limit| (limit - f64::from(LIMIT)).abs() < f64::EPSILON),
                "ratelimiter_key_requests_limit{{key={label:?}}} is {limit:?}; expected {LIMIT}"
            );
        }
        Ok(())
    }

    /// Checks that the exporter names what it watches: each strategy is one of the kind's counters.
    async fn watches_this(&self) -> anyhow::Result<()> {
        let Some(exporter) = &self.exporter else {
            return Ok(());
        };
        let scrape = exporter.scrape().await?;
        for strategy in self.application.strategies {
            let labels = [
                ("kind", self.application.kind),
                ("counter", strategy.counter),
            ];
            ensure!(
                scrape.value("ratelimiter_limiter_info", &labels).is_some(),
                "no ratelimiter_limiter_info with {labels:?}"
            );
        }
        Ok(())
    }
}

/// The flags of the exporter for an application, with a configuration in `folder` where it needs one.
fn exporter_args(
    application: &Application,
    redis_url: &str,
    folder: &Path,
) -> anyhow::Result<Vec<String>> {
    let mut args = vec![
        format!("--redis.url={redis_url}"),
        format!("--limiter.kind={}", application.kind),
    ];
    if application.limit_is_configured {
        let file = folder.join("exporter.yml");
        let window = WINDOW.as_secs();
        let rules =
            format!("limits:\n  - match: \"*\"\n    limit: {LIMIT}\n    window: {window}s\n");
        std::fs::write(&file, rules).context("cannot write the exporter's configuration")?;
        args.push(format!("--config.file={}", file.display()));
    }
    Ok(args)
}

/// Waits for the first half of a window that is aligned to the clock, so that the next step and its scrape lie within it.
async fn into_window() {
    let window = WINDOW.as_millis();
    let into = now().as_millis() % window;
    if into > window / 2 {
        let rest = u64::try_from(window - into).unwrap_or_default();
        sleep(Duration::from_millis(rest + 100)).await;
    }
}

/// The number of the current window.
fn window() -> u128 {
    now().as_millis() / WINDOW.as_millis()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the applications number their windows by the clock of this machine"
)]
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
