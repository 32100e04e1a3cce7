//! The control connection's part of a collection: PING, Redis's clock and INFO, and the registrations of known nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connector::Connector;
use super::nodes::Registration;
use super::redis::{RedisFailure, ServerState, registrations, server_state};
use crate::clock::Clock;
use crate::observation::{Collector, Failure, Reason};

/// What the control connection brought.
pub(super) struct RedisBasics {
    pub(super) ping: Result<Duration, RedisFailure>,
    pub(super) state: Option<ServerState>,
    pub(super) registrations: Option<BTreeMap<String, Registration>>,
    pub(super) failures: Vec<Failure>,
    pub(super) seconds: f64,
}

/// PING, then clock, INFO and the registrations of known nodes.
pub(super) async fn redis_basics(
    control: &mut Connector,
    clock: &Clock,
    ids: Vec<String>,
    offset: oneshot::Sender<SignedDuration>,
) -> RedisBasics {
    let started = Instant::now();
    let mut basics = RedisBasics {
        ping: Ok(Duration::ZERO),
        state: None,
        registrations: None,
        failures: Vec::new(),
        seconds: 0.0,
    };
    let mut connection = match control.ping().await {
        Ok((connection, took)) => {
            basics.ping = Ok(took);
            connection
        }
        Err(failure) => {
            let (reason, message) = (failure.reason, failure.message.clone());
            basics
                .failures
                .push(Failure::new(Collector::Redis, "", reason, message));
            basics.ping = Err(failure);
            basics.seconds = started.elapsed().as_secs_f64();
            return basics;
        }
    };
    let what = "TIME and INFO";
    match server_state(&mut connection, clock).await {
        Ok(state) => {
            let errors = state.errors.iter();
            let failures = errors.map(|error| redis_failed(Collector::Redis, what, error));
            basics.failures.extend(failures);
            // Nobody waits if the sweep was cut off.
            let _ = offset.send(state.clock_offset);
            basics.state = Some(state);
        }
        Err(error) => {
            control.note(&error);
            basics
                .failures
                .push(redis_failed(Collector::Redis, what, &error));
        }
    }
    match registrations(&mut connection, &ids).await {
        Ok(read) => {
            basics.failures.extend(malformed(read.malformed));
            basics.registrations = Some(read.found);
        }
        Err(error) => {
            control.note(&error);
            let what = "HMGET of registrations";
            basics
                .failures
                .push(redis_failed(Collector::Registry, what, &error));
        }
    }
    basics.seconds = started.elapsed().as_secs_f64();
    basics
}

pub(super) fn malformed(ids: Vec<(String, Reason)>) -> impl Iterator<Item = Failure> {
    ids.into_iter().map(|(id, reason)| {
        let message = format!("ratelimiter:nodes:{id}: expected a hash with an address");
        Failure::new(Collector::Registry, id, reason, message)
    })
}

pub(super) fn redis_failed(collector: Collector, what: &str, error: &redis::RedisError) -> Failure {
    let failure = RedisFailure::of(what, error);
    Failure::new(collector, "", failure.reason, failure.message)
}
