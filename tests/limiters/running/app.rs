//! An application with its limiter: starts it and sends requests.

use std::path::Path;

use lab::application::{Application, ApplicationOptions};
use lab::process::faketime;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::expected::WINDOW;

/// How far the clock of an instance is ahead: several windows.
const AHEAD: &str = "+5m";

/// The clock that an application sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The clock of this machine.
    Right,
    /// A clock that is ahead, by libfaketime. Redis keeps the clock of this machine.
    Ahead,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allowed,
    Refused,
    /// Neither 200 nor 429, or no answer.
    Failed,
}

/// A running application.
#[derive(Debug)]
pub(crate) struct App(Application);

impl App {
    /// Starts this file of `apps/` with a limit and its limiter in this Redis. Its output goes to `folder`.
    pub(crate) async fn start(
        file: &str,
        clock: Clock,
        redis_url: &str,
        limit: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limiters/apps");
        let variables = match clock {
            Clock::Right => Vec::new(),
            Clock::Ahead => vec![
                format!("LD_PRELOAD={}", faketime()?.display()),
                format!("FAKETIME={AHEAD}"),
                // Timers and deadlines use the monotonic clock, which must not be faked.
                "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
                "DONT_FAKE_MONOTONIC=1".to_owned(),
            ],
        };
        let file = apps.join(file);
        let application = Application::start(ApplicationOptions {
            file: &file,
            variables: &variables,
            redis_url,
            limit,
            window: WINDOW,
            folder,
        });
        Ok(Self(Box::pin(application).await?))
    }

    /// Sends one request of a client.
    pub(crate) async fn ask(&self, path: &str, client: &str) -> Outcome {
        let client = utf8_percent_encode(client, NON_ALPHANUMERIC);
        match self.0.status(&format!("/{path}?key={client}")).await {
            Some(200) => Outcome::Allowed,
            Some(429) => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }

    /// The last lines of its output.
    pub(crate) fn last_output(&self) -> String {
        self.0.last_output()
    }
}
