//! Kinds of limiters, as data: a description in YAML, checked; names to counters; answers of Redis to counts. Pure: no
//! I/O, no clock, no async, and no limiter's name outside of the descriptions in `limiters/`.

mod ask;
mod built_in;
mod checks;
mod description;
mod http_limits;
mod json;
mod labels;
mod limits;
mod look;
mod methods;
mod names;
mod nodes;
mod pattern;
mod reading;
mod scans;
mod selector;
mod template;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

pub use crate::observation::{Invalid, Refused};
pub use ask::{Answer, Ask, MOST_BYTES, MOST_ENTRIES, Type};
pub use built_in::{BUILT_IN, built_in, list};
pub use description::{
    Companion, Counter, Description, Expiry, Longest, Malformed, Needed, Units, When as Tells,
    WithoutExpiry,
};
pub use http_limits::{Http, Json, Levels, Rules};
pub use labels::Labels;
pub use limits::{Beside, Fields, Fixed, Form, Limits, Source};
pub use look::{Known, Look};
pub use methods::Method;
pub use names::{Fit, Matched, Span, When};
pub use nodes::{Canary, Discover, Endpoint, Health, Latency, Nodes, Path, Pointer, Registry};
pub use pattern::{LinePattern, Pattern};
pub use reading::{Expires, Finding, Outcome, Reading, Unknown};
pub use selector::{Label, Selector, Wanted};
pub use template::Template;
pub use units::{Number, Period, Unit};
pub use yaml::Mistake;
