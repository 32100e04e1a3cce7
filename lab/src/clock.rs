//! The one place of the lab that reads the time.

use std::time::Instant;

use jiff::tz::TimeZone;

/// Milliseconds since the Unix epoch, as the limiter scores its members.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab's clock: everything else is passed a time"
)]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The local time without a zone and with microseconds, as a node registers itself.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab's clock: everything else is passed a time"
)]
pub fn local_time() -> String {
    jiff::Timestamp::now()
        .to_zoned_datetime(TimeZone::system())
        .strftime("%Y-%m-%dT%H:%M:%S%.6f")
        .to_string()
}

/// A reading to measure a duration from.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab's clock: everything else is passed a time"
)]
pub fn instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_time_has_microseconds_and_no_zone() {
        let text = local_time();
        assert_eq!(text.len(), "2026-11-23T18:31:48.565946".len(), "{text}");
        assert_eq!(&text[10..11], "T");
        assert_eq!(&text[19..20], ".");
    }
}
