//! A connection to Redis that is kept, and replaced after a failure.
//!
//! A separate task makes each connection, and `--redis.timeout` bounds it. A caller that gives up does not stop the task:
//! the next caller takes over the connection. So a collection may be shorter than the time that connecting takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::lock::lock;
use crate::observation::Reason;
use crate::observe::redis::deployment::Access;
use crate::observe::redis::endpoint::{Endpoint, OnPush, Open};
use crate::observe::redis::errors::{RedisFailure, breaks, not_connected};

/// A connection that is replaced after a failure. All clones share it.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Connector {
    endpoint: Arc<Endpoint>,
    open: Arc<Mutex<Option<Open>>>,
    /// Makes a connection, or checks whether the open one still works.
    task: Arc<tokio::sync::Mutex<Option<Task>>>,
    /// Why the last task failed, until a connection is made.
    failed: Arc<Mutex<Option<RedisFailure>>>,
}

type Task = AbortOnDropHandle<RedisResult<Open>>;

impl Connector {
    /// A connector to `address`, a `host:port` or the path of a socket.
    pub(in crate::observe) fn new(access: Arc<Access>, address: &str) -> Self {
        Self::with(access, address, None, None)
    }

    /// A connector whose connections begin with the command `first`, and pass what Redis pushes to `on_push`.
    pub(in crate::observe) fn with(
        access: Arc<Access>,
        address: &str,
        first: Option<Cmd>,
        on_push: Option<OnPush>,
    ) -> Self {
        Self {
            endpoint: Arc::new(Endpoint {
                access,
                address: address.to_owned(),
                first,
                on_push,
            }),
            open: Arc::default(),
            task: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// The open connection, or a new one. The flag says whether it was made before this call.
    pub(in crate::observe) async fn get(&self) -> RedisResult<(Open, bool)> {
        let mut task = self.task.lock().await;
        if let Some(before) = &mut *task {
            // The task began before this call: its failure says nothing about the present.
            let made = outcome(before.await);
            *task = None;
            self.note_made(&made);
        }
        if let Some(open) = &*lock(&self.open) {
            return Ok((open.clone(), true));
        }
        let endpoint = Arc::clone(&self.endpoint);
        let begin = || AbortOnDropHandle::new(tokio::spawn(async move { endpoint.open().await }));
        let made = outcome(task.get_or_insert_with(begin).await);
        *task = None;
        self.note_made(&made);
        Ok((made?, false))
    }

    fn note_made(&self, made: &RedisResult<Open>) {
        let what = format!("PING {}", self.endpoint.address);
        let failed = made.as_ref().err();
        *lock(&self.failed) = failed.map(|error| RedisFailure::of(&what, error));
        *lock(&self.open) = made.as_ref().ok().cloned();
    }

    /// For a caller that gave up on an answer: why the attempt before it failed, which was refused or had its whole timeout.
    pub(in crate::observe) fn failed_before(&self) -> Option<RedisFailure> {
        lock(&self.failed).clone()
    }

    /// Checks the connection, for a caller that gave up on an answer. A task sends PING, which Redis answers after all
    /// earlier commands. Without an answer, the connection is replaced.
    pub(in crate::observe) fn verify(&self) {
        let open = lock(&self.open).clone();
        if let (Some(open), Ok(mut task)) = (open, self.task.try_lock())
            && task.is_none()
        {
            let endpoint = Arc::clone(&self.endpoint);
            *task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                match ping(&open).await {
                    Err(error) if breaks(&error) => endpoint.open().await,
                    _ => Ok(open),
                }
            })));
        }
    }

    /// The open connection, if there is one. While it lasts, Redis was not restarted.
    pub(in crate::observe) fn current(&self) -> Option<MultiplexedConnection> {
        let open = lock(&self.open);
        open.as_ref().map(|open| open.connection.clone())
    }

    /// Drops the connection. The next use makes a new one.
    pub(in crate::observe) fn replace(&self) {
        *lock(&self.open) = None;
        if let Ok(mut task) = self.task.try_lock() {
            *task = None;
        }
    }

    /// Drops the connection if `error` breaks it.
    pub(in crate::observe) fn note(&self, error: &RedisError) {
        if breaks(error) {
            self.replace();
        }
    }

    /// Sends PING on the open connection, or on a new one. A broken connection is dropped, and not replaced.
    pub(in crate::observe) async fn ping_once(&self) -> RedisResult<Open> {
        let (open, _) = self.get().await?;
        ping(&open).await.inspect_err(|_| self.replace())?;
        Ok(open)
    }

    /// A connection on which Redis answered PONG, and how long that took.
    ///
    /// A connection that broke since its last use is replaced at once: Redis may have restarted meanwhile, and is not
    /// disconnected now.
    pub(in crate::observe) async fn ping(
        &self,
    ) -> Result<(MultiplexedConnection, Duration), RedisFailure> {
        let address = &self.endpoint.address;
        let timeout = self.endpoint.access.timeout;
        loop {
            let mut reused = false;
            let attempt = tokio::time::timeout(timeout, async {
                let (open, was_made) = self.get().await?;
                reused = was_made;
                let started = Instant::now();
                let answer = ping(&open).await?;
                RedisResult::Ok((open.connection, started.elapsed(), answer))
            });
            let failure = match attempt.await {
                Ok(Ok((connection, took, Value::SimpleString(pong)))) if pong == "PONG" => {
                    return Ok((connection, took));
                }
                Ok(Ok((_, _, answer))) => {
                    let message = format!("PING {address}: answered {answer:?}, expected PONG");
                    RedisFailure::new(Reason::RedisError, message)
                }
                Ok(Err(error)) => {
                    if !breaks(&error) {
                        return Err(RedisFailure::of(&format!("PING {address}"), &error));
                    }
                    if reused && !error.is_timeout() {
                        self.replace();
                        continue;
                    }
                    RedisFailure::of(&format!("PING {address}"), &error)
                }
                Err(_) => {
                    let message = format!("PING {address}: no answer within {timeout:?}");
                    RedisFailure::new(Reason::Timeout, message)
                }
            };
            self.replace();
            return Err(failure);
        }
    }
}

async fn ping(open: &Open) -> RedisResult<Value> {
    let mut connection = open.connection.clone();
    redis::cmd("PING").query_async(&mut connection).await
}

/// The result of a task. The tasks do not panic, and nothing aborts them while a caller waits.
fn outcome(made: Result<RedisResult<Open>, tokio::task::JoinError>) -> RedisResult<Open> {
    made.unwrap_or_else(|_| Err(not_connected()))
}
