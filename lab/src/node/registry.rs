//! A node's registration: written at the start, renewed while it lives, deleted when it stops.
//!
//! The registration of a node that dies expires.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::limiter::Limiter;
use crate::clock;
use crate::faults::Faults;

/// How many heartbeats a registration lives: two renewals may fail before it runs out.
const HEARTBEATS: u64 = 3;

/// A clean stop closes the port within 0.2 s, Redis or no Redis.
const DEREGISTER_PATIENCE: Duration = Duration::from_millis(150);

#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) heartbeat_seconds: u64,
}

impl Registration {
    fn name(&self) -> String {
        format!("ratelimiter:nodes:{}", self.id)
    }

    pub(super) async fn renew(&self, limiter: &Limiter) -> anyhow::Result<()> {
        let name = &self.name();
        let registered_at = &clock::local_time();
        limiter
            .link()
            .run(|mut conn| async move {
                redis::pipe()
                    .atomic()
                    .cmd("HSET")
                    .arg(name)
                    .arg(&["address", &self.address, "registered_at", registered_at])
                    .ignore()
                    .cmd("EXPIRE")
                    .arg(name)
                    .arg(HEARTBEATS * self.heartbeat_seconds)
                    .ignore()
                    .query_async::<()>(&mut conn)
                    .await?;
                Ok(())
            })
            .await
    }

    /// Renews it for as long as the node lives. A failure waits for the next beat, as a real one
    /// does.
    pub(super) async fn keep_alive(
        self,
        limiter: Arc<Limiter>,
        faults: watch::Receiver<Arc<Faults>>,
    ) {
        let mut beats = tokio::time::interval(Duration::from_secs(self.heartbeat_seconds));
        // A node that hung renews once when it goes on, not once for every beat it missed.
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and that renewal has been done.
        beats.tick().await;
        loop {
            beats.tick().await;
            let delay = faults.borrow().heartbeat_delay_ms;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if faults.borrow().no_heartbeat {
                continue;
            }
            if let Err(error) = self.renew(&limiter).await {
                eprintln!("heartbeat: {error:#}");
            }
        }
    }

    /// Deletes it, if Redis answers soon enough.
    pub(super) async fn delete(&self, limiter: &Limiter) {
        let name = &self.name();
        let delete = limiter.link().run(|mut conn| async move {
            let mut delete = cmd("DEL");
            delete.arg(name);
            delete.query_async::<()>(&mut conn).await?;
            Ok(())
        });
        let outcome = tokio::time::timeout(DEREGISTER_PATIENCE, delete).await;
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("the registration could not be deleted: it will run out");
        }
    }
}
