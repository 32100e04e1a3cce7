//! The applications of `apps/`, and what is expected of each: data. `README.md` says how to add one.

use std::ffi::OsStr;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::app::Outcome;

/// An application, in the folder `apps/`.
#[derive(Debug)]
pub(crate) struct Application {
    /// Its file. It is started with port, URL of Redis, limit and window in seconds.
    pub(crate) file: &'static str,
    /// What it shows, by the names of the packages; their versions are those that the locks name.
    pub(crate) packages: &'static [&'static str],
    /// What `--limiter.kind` says.
    pub(crate) kind: &'static str,
    /// Whether the limit is in no name and no value of its counters, so that the exporter's configuration says it.
    pub(crate) limit_is_configured: bool,
    /// Its endpoints.
    pub(crate) strategies: &'static [Strategy],
}

/// An endpoint, whose requests are counted in one way: `GET /PATH?key=CLIENT` is 200 or 429.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about a library that have nothing to do with each other"
)]
pub(crate) struct Strategy {
    /// The path of its endpoint, without the slash.
    pub(crate) path: &'static str,
    /// The counter of the kind's description that its keys are.
    pub(crate) counter: &'static str,
    /// The pattern of its names in Redis; CLIENT is the client.
    pub(crate) names: &'static str,
    /// The exporter's label, likewise.
    pub(crate) label: &'static str,
    /// How the client is written in both.
    pub(crate) client: Writing,
    /// What a count holds.
    pub(crate) counts: Counts,
    /// How many windows after its last request nothing of a client is remembered.
    pub(crate) forgets_after: u32,
    /// Whether a client that never stops asking is allowed again and again.
    pub(crate) forgives: bool,
    /// What a client meets whose counter lost its expiry at the limit.
    pub(crate) without_expiry: WithoutExpiry,
    /// Whether an instance with a higher limit brings a client above the lower one, which the exporter knows, in the same key
    /// and so that the key shows it.
    pub(crate) shows_two_limits: bool,
    /// What an instance whose clock is ahead writes.
    pub(crate) clock_ahead: ClockAhead,
    /// What a new client meets while Redis is full.
    pub(crate) when_full: Outcome,
    /// Whether it goes on after SCRIPT FLUSH.
    pub(crate) reloads_scripts: bool,
    /// Whether a name ends with the number of its window.
    pub(crate) numbered_windows: bool,
}

/// How a client is written in names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writing {
    /// As it is.
    Plain,
    /// With dots for colons: the name of a queue has none.
    Dotted,
    /// As Nest does: the SHA-256 of class, method, throttler and client.
    Hashed,
}

/// What a count holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Every request.
    Asked,
    /// Those that were allowed.
    Allowed,
    /// Those that were allowed, less what drained since: `limit` in a window.
    Level,
}

/// What an instance whose clock is ahead writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockAhead {
    /// What any other writes: it leaves the time to Redis.
    Right,
    /// Times or windows that have not come yet.
    Invalid,
    /// A time up to which more requests than the limit would be counted. It is invalid, too.
    OverLimit,
}

/// What a client meets whose counter lost its expiry at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutExpiry {
    /// It is refused for ever, which the exporter reports.
    Blocks,
    /// It is allowed again, or is after another window.
    Passes,
    /// It is not limited any more. The exporter reports the same, as another library of the kind blocks, and that too much
    /// was allowed as soon as it was.
    Opens,
}

impl Application {
    /// Whether it is in Python; the others are in JavaScript.
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

/// What most strategies are like.
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

/// All of them, in the order of the table.
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
            // While it is blocked, a client's requests fill its next window.
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
            // A limit whose end is not known holds no job back: jobs are counted on, and never refused.
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
