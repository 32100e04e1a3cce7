//! Text and figures for the page: text of others is bounded, figures are rounded. maud escapes everything.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

/// The longest text of others that is shown whole: any message fits, and none fills the page.
const LONGEST: usize = 400;

/// Text of others. A browser shows no control characters, and HTML forbids some.
pub(super) fn foreign(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let end = text.chars().nth(LONGEST).map(|_| '…');
    text.chars().take(LONGEST).map(plain).chain(end).collect()
}

/// A subject: a node id or a key. In `bdi`, one that is written from right to left does not turn the text around it.
pub(super) fn subject(text: &str) -> Markup {
    html! {
        @if text.is_empty() { span class="faint" { "as a whole" } } @else { bdi class="id" { (foreign(text)) } }
    }
}

/// A time of day, with its date unless that is today, and its machine-readable form.
pub(super) fn time(at: Timestamp, now: Timestamp) -> Markup {
    let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let format = if date(at) == date(now) {
        "%H:%M:%S UTC"
    } else {
        "%Y-%m-%d %H:%M:%S UTC"
    };
    html! { time datetime=(format!("{at:.0}")) { (at.strftime(format)) } }
}

/// A duration in its two largest units: `3 h 12 min`, `41 s`.
pub(super) fn long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, 1..5) if !seconds.is_multiple_of(60) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) if minutes.is_multiple_of(60) => format!("{hours} h"),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Milliseconds with as many digits as matter.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// A window, in seconds or longer units if it is whole seconds.
pub(super) fn window(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        long(Duration::from_millis(ms))
    } else {
        format!("{ms} ms")
    }
}

/// A figure with one digit after the point, or none if that is zero.
pub(super) fn short(figure: f64) -> String {
    let text = format!("{figure:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Bytes in binary units.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// The length of a whole bar, as a share of its mark.
const BEYOND: f64 = 1.5;

/// A bar as long as `share`, with a mark at 1. The part beyond the mark has its own style. Screen readers ignore the bar: the
/// figure is beside it. It is an SVG because the content security policy forbids style attributes.
pub(super) fn bar(share: f64) -> Markup {
    let at = |share: f64| share.clamp(0.0, BEYOND) / BEYOND * 300.0;
    let (within, all, mark) = (at(share.min(1.0)), at(share), at(1.0));
    svg(&html! {
        rect class="within" width=(format!("{within:.1}")) height="10" {}
        @if all > within {
            rect class="over" x=(format!("{within:.1}")) width=(format!("{:.1}", all - within)) height="10" {}
        }
        rect class="mark" x=(format!("{mark:.1}")) width="2" height="10" {}
    })
}

/// Progress from 0 to 1: a bar without a mark.
pub(super) fn progress(done: f64) -> Markup {
    let width = format!("{:.1}", done.clamp(0.0, 1.0) * 300.0);
    svg(&html! { rect class="within" width=(width) height="10" {} })
}

fn svg(shapes: &Markup) -> Markup {
    html! {
        svg class="bar" viewBox="0 0 300 10" preserveAspectRatio="none" aria-hidden="true" {
            rect class="track" width="300" height="10" {} (shapes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_escaped_and_bounded() {
        let shown = subject("<b a=\"1\">&\u{1b}[2J\n").into_string();
        let text = "&lt;b a=&quot;1&quot;&gt;&amp;\u{fffd}[2J\u{fffd}";
        assert_eq!(shown, format!("<bdi class=\"id\">{text}</bdi>"));
        assert_eq!(foreign(&"x".repeat(500)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn figures_are_rounded_and_have_units() {
        let long = |seconds| long(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 299, 300, 3599, 3600, 86_399, 90_000].map(long),
            [
                "0 s",
                "59 s",
                "1 min",
                "4 min 59 s",
                "5 min",
                "59 min",
                "1 h",
                "23 h 59 min",
                "1 d 1 h"
            ]
        );
        let bytes = [0, 1023, 1024, 1_572_864, 1 << 50].map(bytes);
        assert_eq!(bytes, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1024.0 TiB"]);
        assert_eq!([7.000_000_1, 2.5].map(short), ["7", "2.5"]);
        let ms = [0.04, 99.94, 250.4, 12_345.0].map(millis);
        assert_eq!(ms, ["0.0 ms", "99.9 ms", "250 ms", "12.3 s"]);
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now: Timestamp = "2026-01-27T02:06:57.123Z".parse().unwrap();
        let at = |at: &str| time(at.parse().unwrap(), now).into_string();
        assert!(at("2026-01-27T00:00:01.5Z").contains(">00:00:01 UTC<"));
        assert!(at("2026-01-26T23:59:59Z").contains(">2026-01-26 23:59:59 UTC<"));
    }

    #[test]
    fn a_bar_never_exceeds_its_track() {
        let bar = |share| bar(share).into_string();
        assert!(bar(0.5).contains("class=\"within\" width=\"100.0\""));
        assert!(!bar(1.0).contains("over"));
        let endless = bar(f64::INFINITY);
        assert!(
            endless.contains("class=\"over\" x=\"200.0\" width=\"100.0\""),
            "{endless}"
        );
    }
}
