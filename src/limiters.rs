//! Kinds of limiters as data: parses and checks descriptions in YAML, assigns names to counters, and turns answers of Redis into
//! counts. Pure: no I/O, no clock, no async. Limiters are named only in the descriptions in `limiters/`.

mod ask;
mod built_in;
mod checks;
mod description;
mod drain;
mod expiry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http_limits;
mod inventory;
mod keys;
mod labels;
mod limits;
mod matched;
mod methods;
mod name_reader;
mod names;
mod nodes;
mod pattern;
mod plain_log;
mod reading;
mod scans;
mod selector;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

pub use crate::observation::{Invalid, Refused};
pub use ask::{Answer, Ask, MOST_BYTES, MOST_ENTRIES, Type};
pub use built_in::{BUILT_IN, built_in, list};
pub use description::{Companion, Counter, Description, Malformed, Needed, When as KeyCondition};
pub use drain::WITHOUT_WINDOW_MS;
pub use expiry::{Expiry, Longest, WithoutExpiry};
pub use http_limits::{Header, Http, Json, Levels, Pointer, Rules};
pub use inventory::{Example, Fitting, Inventory};
pub use labels::Called;
pub use limits::{Draining, Fields, Former, Limits};
pub use matched::{Matched, Span, When};
pub use methods::Method;
pub use name_reader::{Merged, NameContext, NameReader, Under, never_fell};
pub use names::Fit;
pub use nodes::{Canary, Discover, Endpoint, Health, Latency, Nodes, Path, Registry, Results};
pub use pattern::{LinePattern, Pattern};
pub use plain_log::PlainLog;
pub use reading::{CounterReading, Expires, Finding, Outcome, Unknown};
pub use scans::MOST_SCANS;
pub use selector::{Label, Selector, Wanted};
pub use source::{Beside, Form, Source};
pub use template::Template;
pub use units::{Number, Period, Unit, Units};
pub use yaml::Mistake;
