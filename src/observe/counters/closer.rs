//! The expiry of a counter of a plain log, its entries in the future, and which of these states the limiter cannot make.
//! Reading them takes two more commands, so they are read only where they decide something, and for a sample. Pure.

use redis::{Cmd, RedisResult, Value};

use crate::limiters::{Counter, Expires, Limits};
use crate::observation::Invalid;

/// How far the clocks of nodes and applications may be ahead of Redis's, in milliseconds.
pub(in crate::observe) const CLOCK_TOLERANCE_MS: u64 = 2_000;

/// The expiry of one counter and its entries in the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Closer {
    /// The reply of PTTL: -1 without an expiry, -2 without the key.
    left_ms: i64,
    /// Requests whose time is further in the future than clocks may differ.
    future: u64,
}

/// The commands for one key.
pub(in crate::observe) const COMMANDS: usize = 2;

/// Keys with longer names are only counted, because each command repeats the name.
const LONGEST: usize = 64 << 10;

impl Closer {
    /// Whether this key is read closely at all.
    pub(in crate::observe) fn suits(key: &[u8]) -> bool {
        key.len() <= LONGEST
    }

    /// The commands for the key `name`. The time is `now_ms` by Redis's clock.
    pub(in crate::observe) fn commands(name: &[u8], now_ms: i64) -> [Cmd; COMMANDS] {
        let mut left = redis::cmd("PTTL");
        left.arg(name);
        let tolerance = i64::try_from(CLOCK_TOLERANCE_MS).unwrap_or(i64::MAX);
        let latest = now_ms.saturating_add(tolerance);
        let mut future = redis::cmd("ZCOUNT");
        future.arg(name).arg(format!("({latest}")).arg("+inf");
        [left, future]
    }

    /// From the answers. `None` if the key has another type, is on another server, or may not be read.
    pub(in crate::observe) fn of(answers: &[RedisResult<Value>; COMMANDS]) -> Option<Self> {
        let [Ok(Value::Int(left_ms)), Ok(Value::Int(future))] = answers else {
            return None;
        };
        Some(Self {
            left_ms: *left_ms,
            future: u64::try_from(*future).unwrap_or(0),
        })
    }

    /// Whether the key never expires.
    pub(in crate::observe) fn is_without_expiry(self) -> bool {
        self.left_ms == -1
    }

    /// A state of a key of `counter`, with `count` under `limits`, that its limiter cannot make.
    pub(in crate::observe) fn invalid(
        self,
        counter: &Counter,
        count: u64,
        limits: &Limits,
    ) -> Option<Invalid> {
        if self.future > 0 {
            return Some(Invalid::InTheFuture);
        }
        let expires = counter.expires(self.left_ms, (count, limits), None, CLOCK_TOLERANCE_MS);
        matches!(expires, Expires::TooLate { .. }).then_some(Invalid::ExpiresTooLate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::{Description, built_in};

    fn invalid(left_ms: i64, future: u64) -> Option<Invalid> {
        let reference = Description::parse(built_in("reference").unwrap()).unwrap();
        let limits = Limits {
            limit: Some(10),
            window_ms: Some(60_000),
            burst: None,
        };
        let closer = Closer { left_ms, future };
        closer.invalid(&reference.counters[0], 5, &limits)
    }

    #[test]
    fn an_expiry_is_one_window_and_a_second_at_the_most() {
        for (left_ms, expected) in [
            (1, None),
            // The limiter renews it at each request that it admits.
            (61_000, None),
            (63_000, None),
            (63_001, Some(Invalid::ExpiresTooLate)),
            // It leaks, and the next request trims it.
            (-1, None),
            // It has just expired.
            (-2, None),
        ] {
            assert_eq!(invalid(left_ms, 0), expected, "{left_ms}");
        }
    }

    #[test]
    fn a_request_in_the_future_shows_a_clock_that_is_ahead() {
        assert_eq!(invalid(50_000, 1), Some(Invalid::InTheFuture));
        let [_, future] = Closer::commands(b"ratelimit:k", 1_700_000_000_000);
        let packed = String::from_utf8(future.get_packed_command()).unwrap();
        assert!(packed.contains("(1700000002000"), "{packed}");
    }

    #[test]
    fn a_failed_reading_gives_no_closer_reading() {
        let wrong_type = || Err((redis::ErrorKind::Client, "not an integer").into());
        assert_eq!(Closer::of(&[Ok(Value::Int(5)), wrong_type()]), None);
        let read = Closer::of(&[Ok(Value::Int(-1)), Ok(Value::Int(0))]);
        assert!(read.is_some_and(Closer::is_without_expiry));
    }
}
