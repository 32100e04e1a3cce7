//! A connection to Redis that recovers by itself.
//!
//! The client's multiplexed connection stays broken after a failure; here the next operation replaces it. Every operation has a
//! deadline, which includes waiting for the connection. Nothing reconnects in the background.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::Mutex;

/// A connection to one Redis, replaced after failures.
#[derive(Debug)]
pub struct Link {
    client: Client,
    patience: Duration,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Counts the connections, so that a late failure of an old one does not discard the new.
    generation: u64,
    connection: Option<MultiplexedConnection>,
}

impl Link {
    /// A link that connects on first use and gives every operation `patience` in all.
    pub fn new(url: &str, patience: Duration) -> anyhow::Result<Self> {
        let client = Client::open(url).with_context(|| format!("not a Redis URL: {url:?}"))?;
        Ok(Self {
            client,
            patience,
            slot: Mutex::new(Slot::default()),
        })
    }

    /// Runs `operation` on the connection.
    ///
    /// When the connection turns out to have been closed (Redis was restarted since), it runs once
    /// more on a new one. That may run a command twice whose answer was lost.
    pub async fn run<T, F, Fut>(&self, operation: F) -> anyhow::Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut,
        Fut: Future<Output = anyhow::Result<T>>,
    {
        let attempts = self.run_steps(operation);
        if let Ok(outcome) = tokio::time::timeout(self.patience, attempts).await {
            return outcome;
        }
        // Another operation that holds the slot is replacing the connection already.
        if let Ok(mut slot) = self.slot.try_lock() {
            slot.connection = None;
        }
        Err(anyhow!("Redis did not answer within {:?}", self.patience))
    }

    /// As [`Link::run`], with the patience for each command instead of all of them together.
    pub async fn run_steps<T, F, Fut>(&self, operation: F) -> anyhow::Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut,
        Fut: Future<Output = anyhow::Result<T>>,
    {
        match self.attempt(&operation).await {
            Err(error) if was_closed(&error) => self.attempt(&operation).await,
            outcome => outcome,
        }
    }

    async fn attempt<T, F, Fut>(&self, operation: &F) -> anyhow::Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut,
        Fut: Future<Output = anyhow::Result<T>>,
    {
        let (generation, connection) = self.connection().await?;
        let outcome = operation(connection).await;
        if outcome.as_ref().is_err_and(is_broken) {
            let mut slot = self.slot.lock().await;
            if slot.generation == generation {
                slot.connection = None;
            }
        }
        outcome
    }

    async fn connection(&self) -> anyhow::Result<(u64, MultiplexedConnection)> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok((slot.generation, connection.clone()));
        }
        let connection = connect(&self.client, self.patience).await?;
        slot.generation += 1;
        slot.connection = Some(connection.clone());
        Ok((slot.generation, connection))
    }
}

/// Connects with both of the client's timeouts set: its defaults are too short for a busy machine.
pub async fn connect(client: &Client, timeout: Duration) -> anyhow::Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .context("cannot connect to Redis")
}

/// The connection is of no further use. An error that Redis answered leaves it usable.
fn is_broken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<RedisError>().is_some_and(|error| {
        error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()
    })
}

fn was_closed(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<RedisError>();
    error.is_some_and(|error| {
        !error.is_timeout() && !error.is_connection_refusal() && error.is_connection_dropped()
    })
}
