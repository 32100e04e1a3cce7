//! The applications of `apps/` and what is expected of each, as data. `README.md` explains how to add one.

use std::ffi::OsStr;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::app::Outcome;

/// An application, in the folder `apps/`.
#[derive(Debug)]
pub(crate) struct Application {
    /// Its file. Its arguments are the port, the URL of Redis, the limit, and the window in seconds.
    pub(crate) file: &'static str,
    /// The packages that it tests. The lock files have their versions.
    pub(crate) packages: &'static [&'static str],
    /// The value of `--limiter.kind`.
    pub(crate) kind: &'static str,
    /// Whether neither names nor values of its counters have the limit, so that the exporter's configuration must have it.
    pub(crate) limit_is_configured: bool,
    /// Its endpoints.
    pub(crate) strategies: &'static [Strategy],
}

/// An endpoint with one counting strategy. `GET /PATH?key=CLIENT` answers 200 or 429.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about a library that have nothing to do with each other"
)]
pub(crate) struct Strategy {
    /// The path of its endpoint, without the slash.
    pub(crate) path: &'static str,
    /// The counter in the description of the kind that its keys belong to.
    pub(crate) counter: &'static str,
    /// The pattern of its names in Redis, with CLIENT for the client.
    pub(crate) names: &'static str,
    /// The exporter's label, with CLIENT for the client.
    pub(crate) label: &'static str,
    /// How the client is written in names and labels.
    pub(crate) client: Writing,
    /// Which requests are in a count.
    pub(crate) counts: Counts,
    /// How many windows after its last request a client is forgotten.
    pub(crate) forgets_after: u32,
    /// Whether a client that never stops sending requests is allowed in each window.
    pub(crate) forgives: bool,
    /// What happens to a client whose counter loses its expiry at the limit.
    pub(crate) without_expiry: WithoutExpiry,
    /// Whether the key shows that a second instance, which has a higher limit, has admitted a client above the limit that the
    /// exporter knows.
    pub(crate) shows_two_limits: bool,
    /// What an instance whose clock is ahead writes.
    pub(crate) clock_ahead: ClockAhead,
    /// The outcome for a new client while Redis is full.
    pub(crate) when_full: Outcome,
    /// Whether it works after SCRIPT FLUSH.
    pub(crate) reloads_scripts: bool,
    /// Whether a name ends with the number of its window.
    pub(crate) numbered_windows: bool,
}

/// How a client is written in names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writing {
    /// Unchanged.
    Plain,
    /// With dots instead of colons, which names of queues must not have.
    Dotted,
    /// As in Nest: the SHA-256 of class, method, throttler and client.
    Hashed,
}

/// Which requests are in a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Every request.
    Asked,
    /// Allowed requests.
    Allowed,
    /// Allowed requests, minus those that have drained since: `limit` in a window.
    Level,
}

/// What an instance whose clock is ahead writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockAhead {
    /// The same as any other instance: the library uses the time of Redis.
    Right,
    /// Times or windows in the future.
    Invalid,
    /// A time in the future that means a count above the limit. It is also invalid.
    OverLimit,
}

/// What happens to a client whose counter loses its expiry at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutExpiry {
    /// It is refused for ever. The exporter reports that.
    Blocks,
    /// It is allowed again, at the latest after another window.
    Passes,
    /// It is no longer limited. The exporter reports a stuck counter, because another library of the kind blocks. It also
    /// reports that too much was allowed, as soon as it was.
    Opens,
}

impl Application {
    /// Whether it is in Python. The others are in JavaScript.
    pub(crate) fn is_python(&self) -> bool {
        Path::new(self.file).extension() == Some(OsStr::new("py"))
    }
}

impl Strategy {
    /// The pattern of the names of a client's counter, for KEYS.
    pub(crate) fn names_of(&self, client: &str) -> String {
        self.names.replace("CLIENT", &self.client.of(client))
    }

    /// The label of a client's counter.
    pub(crate) fn label_of(&self, client: &str) -> String {
        self.label.replace("CLIENT", &self.client.of(client))
    }
}

impl Writing {
    fn of(self, client: &str) -> String {
        match self {
            Self::Plain => client.to_owned(),
            Self::Dotted => client.replace(':', "."),
            Self::Hashed => {
                let hash = Sha256::digest(format!("AppController-hits-default-{client}"));
                let hash = hash.iter();
                hash.fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
            }
        }
    }
}

/// The values that most strategies have.
const USUAL: Strategy = Strategy {
    path: "",
    counter: "",
    names: "",
    label: "CLIENT",
    client: Writing::Plain,
    counts: Counts::Allowed,
    forgets_after: 1,
    forgives: true,
    without_expiry: WithoutExpiry::Passes,
    shows_two_limits: false,
    clock_ahead: ClockAhead::Right,
    when_full: Outcome::Failed,
    reloads_scripts: true,
    numbered_windows: false,
};

/// All applications, in the order of the table.
pub(crate) const APPLICATIONS: &[Application] = &[
    Application {
        file: "flask-limiter.py",
        packages: &["flask-limiter", "limits"],
        kind: "limits",
        limit_is_configured: false,
        strategies: &[
            Strategy {
                path: "fixed-window",
                counter: "fixed-window",
                names: "LIMITS:LIMITER/CLIENT/fixed-window/*",
                label: "CLIENT/fixed-window",
                counts: Counts::Asked,
                without_expiry: WithoutExpiry::Blocks,
                ..USUAL
            },
            Strategy {
                path: "moving-window",
                counter: "moving-window",
                names: "LIMITS:LIMITER/CLIENT/moving-window/*",
                label: "CLIENT/moving-window",
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
            Strategy {
                path: "sliding-window-counter",
                counter: "sliding-window-counter",
                names: "LIMITS:{LIMITER/CLIENT/sliding-window-counter/*",
                label: "CLIENT/sliding-window-counter",
                forgets_after: 2,
                without_expiry: WithoutExpiry::Blocks,
                ..USUAL
            },
        ],
    },
    Application {
        file: "fastapi-slowapi.py",
        packages: &["slowapi", "limits"],
        kind: "limits",
        limit_is_configured: false,
        strategies: &[Strategy {
            path: "fixed-window",
            counter: "fixed-window",
            names: "LIMITS:LIMITER/CLIENT//fixed-window/*",
            label: "CLIENT//fixed-window",
            counts: Counts::Asked,
            without_expiry: WithoutExpiry::Blocks,
            ..USUAL
        }],
    },
    Application {
        file: "django-rest-framework.py",
        packages: &["djangorestframework", "django-redis"],
        kind: "drf",
        limit_is_configured: true,
        strategies: &[Strategy {
            path: "throttle",
            counter: "throttle",
            names: ":1:throttle_user_CLIENT",
            label: "user CLIENT",
            clock_ahead: ClockAhead::Invalid,
            shows_two_limits: true,
            ..USUAL
        }],
    },
    Application {
        file: "throttled-py.py",
        packages: &["throttled-py"],
        kind: "throttled-py",
        limit_is_configured: true,
        strategies: &[
            Strategy {
                path: "fixed-window",
                counter: "fixed-window",
                names: "throttled:v1:fixed_window:fixed-window:CLIENT:period:*",
                label: "fixed-window:CLIENT",
                counts: Counts::Asked,
                numbered_windows: true,
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
            Strategy {
                path: "sliding-window",
                counter: "sliding-window",
                names: "throttled:v1:sliding_window:sliding-window:CLIENT:period:*",
                label: "sliding-window:CLIENT",
                shows_two_limits: true,
                forgets_after: 2,
                numbered_windows: true,
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
            Strategy {
                path: "token-bucket",
                counter: "token-bucket",
                names: "throttled:v1:token_bucket:token-bucket:CLIENT",
                label: "token-bucket:CLIENT",
                counts: Counts::Level,
                ..USUAL
            },
            Strategy {
                path: "leaking-bucket",
                counter: "leaking-bucket",
                names: "throttled:v1:leaking_bucket:leaking-bucket:CLIENT",
                label: "leaking-bucket:CLIENT",
                shows_two_limits: true,
                counts: Counts::Level,
                // Its script sets the expiry first, and Redis does not refuse memory to a script that has written.
                when_full: Outcome::Allowed,
                ..USUAL
            },
            Strategy {
                path: "gcra",
                counter: "gcra",
                names: "throttled:v1:gcra:gcra:CLIENT",
                label: "gcra:CLIENT",
                counts: Counts::Level,
                ..USUAL
            },
        ],
    },
    Application {
        file: "pyrate-limiter.py",
        packages: &["pyrate-limiter"],
        kind: "pyrate-limiter",
        limit_is_configured: true,
        strategies: &[
            Strategy {
                path: "bucket",
                counter: "bucket",
                names: "bucket:bucket:CLIENT",
                label: "bucket:CLIENT",
                shows_two_limits: true,
                // Its issue 182.
                reloads_scripts: false,
                ..USUAL
            },
            Strategy {
                path: "gcra",
                counter: "gcra",
                names: "gcra:gcra:CLIENT",
                label: "gcra:CLIENT",
                counts: Counts::Level,
                clock_ahead: ClockAhead::OverLimit,
                ..USUAL
            },
        ],
    },
    Application {
        file: "express-rate-limit.js",
        packages: &["express-rate-limit", "rate-limit-redis"],
        kind: "express-rate-limit",
        limit_is_configured: true,
        strategies: &[Strategy {
            path: "express",
            counter: "express",
            names: "rl:CLIENT",
            counts: Counts::Asked,
            ..USUAL
        }],
    },
    Application {
        file: "rate-limiter-flexible.js",
        packages: &["rate-limiter-flexible"],
        kind: "rate-limiter-flexible",
        limit_is_configured: true,
        strategies: &[Strategy {
            path: "points",
            counter: "points",
            names: "rlflx:CLIENT",
            counts: Counts::Asked,
            ..USUAL
        }],
    },
    Application {
        file: "nest-throttler.js",
        packages: &["@nestjs/throttler", "@nest-lab/throttler-storage-redis"],
        kind: "nest-throttler",
        limit_is_configured: true,
        strategies: &[Strategy {
            path: "hits",
            counter: "hits",
            names: "{CLIENT:default}:*",
            client: Writing::Hashed,
            counts: Counts::Asked,
            // Requests of a blocked client fill its next window.
            forgives: false,
            ..USUAL
        }],
    },
    Application {
        file: "fastify-rate-limit.js",
        packages: &["@fastify/rate-limit"],
        kind: "fastify-rate-limit",
        limit_is_configured: true,
        strategies: &[
            Strategy {
                path: "global",
                counter: "global",
                names: "fastify-rate-limit-CLIENT",
                counts: Counts::Asked,
                without_expiry: WithoutExpiry::Blocks,
                ..USUAL
            },
            Strategy {
                path: "route",
                counter: "route",
                names: "fastify-rate-limit-GET/route-CLIENT",
                label: "GET/route CLIENT",
                counts: Counts::Asked,
                without_expiry: WithoutExpiry::Blocks,
                ..USUAL
            },
        ],
    },
    Application {
        file: "bullmq.js",
        packages: &["bullmq"],
        kind: "bullmq",
        limit_is_configured: true,
        strategies: &[Strategy {
            path: "queue",
            counter: "queue",
            names: "bull:CLIENT:limiter",
            client: Writing::Dotted,
            shows_two_limits: true,
            // A limit without an end delays no job: jobs are counted and never refused.
            without_expiry: WithoutExpiry::Opens,
            ..USUAL
        }],
    },
    Application {
        file: "upstash.js",
        packages: &["@upstash/ratelimit"],
        kind: "upstash",
        limit_is_configured: true,
        strategies: &[
            Strategy {
                path: "fixed-window",
                counter: "fixed-window",
                names: "@upstash/ratelimit:fixed-window:CLIENT:*",
                label: "fixed-window:CLIENT",
                counts: Counts::Asked,
                numbered_windows: true,
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
            Strategy {
                path: "sliding-window",
                counter: "sliding-window",
                names: "@upstash/ratelimit:sliding-window:CLIENT:*",
                label: "sliding-window:CLIENT",
                shows_two_limits: true,
                forgets_after: 2,
                numbered_windows: true,
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
            Strategy {
                path: "token-bucket",
                counter: "token-bucket",
                names: "@upstash/ratelimit:token-bucket:CLIENT",
                label: "token-bucket:CLIENT",
                counts: Counts::Level,
                clock_ahead: ClockAhead::Invalid,
                ..USUAL
            },
        ],
    },
];
