//! A pipeline between two readings of Redis's clock, so that Redis itself measures how long it works on the commands. The network
//! and the exporter's own delays are not in that time.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value};

/// Commands for one server.
#[derive(Debug)]
pub(in crate::observe) struct TimedPipeline {
    pipe: Pipeline,
    timed: bool,
}

impl TimedPipeline {
    /// With `timed`, Redis measures the time: the Redis user may run TIME.
    pub(in crate::observe) fn new(timed: bool) -> Self {
        let mut pipe = Pipeline::new();
        pipe.ignore_errors();
        if timed {
            pipe.cmd("TIME");
        }
        Self { pipe, timed }
    }

    pub(in crate::observe) fn add(&mut self, command: Cmd) {
        self.pipe.add_command(command);
    }

    /// Sends the commands. Returns their answers, and how long Redis took for them if it measured that.
    pub(in crate::observe) async fn send(
        mut self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<(Vec<RedisResult<Value>>, Option<Duration>)> {
        if self.timed {
            self.pipe.cmd("TIME");
        }
        let mut answers: Vec<RedisResult<Value>> = self.pipe.query_async(connection).await?;
        if !self.timed || answers.len() < 2 {
            return Ok((answers, None));
        }
        let times = (answers.remove(0), answers.pop());
        let took = time_of(times.0).zip(times.1.and_then(time_of));
        let took = took.map(|(begin, end)| end.saturating_sub(begin));
        Ok((answers, took))
    }
}

/// Sends one command. Returns its answer, and how long Redis took for it if it measured that.
pub(in crate::observe) async fn ask_timed<T: FromRedisValue>(
    command: Cmd,
    connection: &mut MultiplexedConnection,
    timed: bool,
) -> (RedisResult<T>, Option<Duration>) {
    let mut pipe = TimedPipeline::new(timed);
    pipe.add(command);
    match pipe.send(connection).await {
        Ok((mut answers, took)) => {
            let answer = answers.pop().unwrap_or(Ok(Value::Nil));
            (answer.and_then(|it| Ok(redis::from_redis_value(it)?)), took)
        }
        Err(error) => (Err(error), None),
    }
}

fn time_of(answer: RedisResult<Value>) -> Option<Duration> {
    let (seconds, micros) = redis::from_redis_value::<(u64, u64)>(answer.ok()?).ok()?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
}
