//! Asks the sentinels for the address of the primary.

use std::sync::Arc;

use redis::RedisResult;

use crate::observation::Reason;
use crate::observe::fallback::first_success;
use crate::observe::redis::address::join;
use crate::observe::redis::connector::Connector;
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::{RedisFailure, first_of};

/// The sentinels of one primary.
#[derive(Debug)]
pub(in crate::observe) struct Sentinels {
    master: String,
    /// The sentinel that answered last comes first.
    connectors: Vec<(String, Connector)>,
}

impl Sentinels {
    /// The sentinels at `addresses`, which know the primary by the name `master`.
    pub(in crate::observe) fn new(
        access: &Arc<Access>,
        addresses: &[String],
        master: &str,
    ) -> Self {
        let connectors = addresses.iter().map(|address| {
            let connector = Connector::new(Arc::clone(access), address);
            (address.clone(), connector)
        });
        Self {
            master: master.to_owned(),
            connectors: connectors.collect(),
        }
    }

    /// Checks the connections, for a caller that gave up on an answer.
    pub(in crate::observe) fn verify(&self) {
        for (_, connector) in &self.connectors {
            connector.verify();
        }
    }

    /// The address of the primary, from the first sentinel that knows it.
    pub(in crate::observe) async fn primary(&mut self) -> Result<String, RedisFailure> {
        let master = &self.master;
        let asked = self.connectors.iter().enumerate();
        let asked = asked.map(|(place, (address, connector))| async move {
            match ask(connector, master).await {
                Ok(Some(primary)) => Ok((place, primary)),
                Ok(None) => {
                    let message = format!("sentinel {address} knows no primary named {master:?}");
                    Err(RedisFailure::new(Reason::Unexpected, message))
                }
                Err(error) => {
                    connector.note(&error);
                    let mut failure = RedisFailure::of(&format!("sentinel {address}"), &error);
                    let detail = error.detail().unwrap_or_default();
                    if detail.to_ascii_lowercase().contains("unknown command") {
                        failure.message +=
                            ": it is not a sentinel; a URL with redis:// was probably meant";
                    }
                    Err(failure)
                }
            }
        });
        let (found, failures) = first_success(asked.collect()).await;
        let (place, primary) = found.ok_or_else(|| first_of(failures))?;
        self.connectors.rotate_left(place);
        Ok(primary)
    }
}

async fn ask(connector: &Connector, master: &str) -> RedisResult<Option<String>> {
    let mut connection = connector.get().await?.0.connection;
    let answer: Option<(String, String)> = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(master)
        .query_async(&mut connection)
        .await?;
    Ok(answer.map(|(host, port)| join(&host, &port)))
}
