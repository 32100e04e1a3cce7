//! Text for the page: everything that others wrote is escaped, and figures are written for people.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// The longest text of others that is shown whole: enough for any message, too little to drown the page.
const LONGEST: usize = 400;

/// Text that others wrote, safe inside an element and inside a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.chars().enumerate() {
            if at == LONGEST {
                return f.write_str("…");
            }
            escape(f, c)?;
        }
        Ok(())
    }
}

/// A URL of the configuration in a quoted attribute: never cut short.
pub(super) struct Link<'a>(pub(super) &'a str);

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| escape(f, c))
    }
}

fn escape(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    match c {
        '&' => f.write_str("&amp;"),
        '<' => f.write_str("&lt;"),
        '>' => f.write_str("&gt;"),
        '"' => f.write_str("&quot;"),
        '\'' => f.write_str("&#39;"),
        // Line ends and other control characters would vanish, or be no HTML at all.
        c if c.is_control() => f.write_str("\u{fffd}"),
        c => write!(f, "{c}"),
    }
}

/// A subject: a node id or a key. `bdi`, so that one written from right to left turns nothing around it.
pub(super) struct Subject<'a>(pub(super) &'a str);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("<span class=\"faint\">as a whole</span>");
        }
        write!(f, "<bdi class=\"id\">{}</bdi>", Escaped(self.0))
    }
}

/// A time of day, with its date unless it is today's; the machine-readable form beside it.
pub(super) struct At {
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
        let format = if date(self.at) == date(self.now) {
            "%H:%M:%S UTC"
        } else {
            "%Y-%m-%d %H:%M:%S UTC"
        };
        let text = self.at.strftime(format);
        write!(f, "<time datetime=\"{:.0}\">{text}</time>", self.at)
    }
}

/// A duration in its two largest units: `3 h 12 min`, `41 s`.
pub(super) struct Long(pub(super) Duration);

impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, 1..5) if !seconds.is_multiple_of(60) => {
                write!(f, "{minutes} min {} s", seconds % 60)
            }
            (0, 0, _) => write!(f, "{minutes} min"),
            (0, ..) if minutes.is_multiple_of(60) => write!(f, "{hours} h"),
            (0, ..) => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

/// Milliseconds with as many digits as matter.
pub(super) struct Millis(pub(super) f64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms >= 10_000.0 => write!(f, "{:.1} s", ms / 1e3),
            ms if ms >= 100.0 => write!(f, "{ms:.0} ms"),
            ms => write!(f, "{ms:.1} ms"),
        }
    }
}

impl Millis {
    /// A window: whole seconds where it is, since windows are chosen by people.
    pub(super) fn window(ms: u64) -> String {
        if ms.is_multiple_of(1000) {
            Long(Duration::from_millis(ms)).to_string()
        } else {
            format!("{ms} ms")
        }
    }
}

/// A figure that a person chose: one digit after the point, or none.
pub(super) struct Short(pub(super) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0);
        f.write_str(text.strip_suffix(".0").unwrap_or(&text))
    }
}

/// Bytes in binary units.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                let digits = usize::from(unit != "B");
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} TiB")
    }
}

/// `1 key`, `2 keys`.
pub(super) struct Count<'a>(pub(super) u64, pub(super) &'a str);

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{ending}", self.0, self.1)
    }
}

/// A bar as long as `share` (1 = the mark), for eyes only: the figure stands beside it. What is beyond the mark is drawn
/// apart. An SVG, since the content security policy forbids style attributes.
pub(super) struct Bar(pub(super) f64);

/// How far a bar reaches beyond its mark, as a share of the mark.
const BEYOND: f64 = 1.5;

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: f64| share.clamp(0.0, BEYOND) / BEYOND * 300.0;
        let (within, all, mark) = (at(self.0.min(1.0)), at(self.0), at(1.0));
        f.write_str(
            "<svg class=\"bar\" viewBox=\"0 0 300 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"300\" height=\"10\"/>",
        )?;
        write!(
            f,
            "<rect class=\"within\" width=\"{within:.1}\" height=\"10\"/>"
        )?;
        if all > within {
            let over = all - within;
            write!(
                f,
                "<rect class=\"over\" x=\"{within:.1}\" width=\"{over:.1}\" height=\"10\"/>"
            )?;
        }
        write!(
            f,
            "<rect class=\"mark\" x=\"{mark:.1}\" width=\"2\" height=\"10\"/></svg>"
        )
    }
}

/// How far something has come, 0 to 1: a bar without a mark.
pub(super) struct Progress(pub(super) f64);

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.0.clamp(0.0, 1.0) * 300.0;
        write!(
            f,
            "<svg class=\"bar\" viewBox=\"0 0 300 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"300\" height=\"10\"/><rect class=\"within\" width=\"{done:.1}\" \
             height=\"10\"/></svg>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_escaped() {
        let shown = Escaped("<b a=\"1\" c='2'>&\u{1b}[2J\n").to_string();
        assert_eq!(
            shown,
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;\u{fffd}[2J\u{fffd}"
        );
        assert_eq!(Escaped(&"x".repeat(500)).to_string().chars().count(), 401);
    }

    #[test]
    fn figures_are_written_for_people() {
        let long = |seconds| Long(Duration::from_secs(seconds)).to_string();
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
        let bytes = [0, 1023, 1024, 1_572_864, 1 << 50].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(bytes, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1024.0 TiB"]);
        assert_eq!(
            [7.000_000_1, 2.5].map(|figure| Short(figure).to_string()),
            ["7", "2.5"]
        );
        let ms = [0.04, 99.94, 250.4, 12_345.0].map(|ms| Millis(ms).to_string());
        assert_eq!(ms, ["0.0 ms", "99.9 ms", "250 ms", "12.3 s"]);
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now: Timestamp = "2026-01-27T02:06:57.123Z".parse().unwrap();
        let at = |at: &str| {
            At {
                at: at.parse().unwrap(),
                now,
            }
            .to_string()
        };
        assert!(at("2026-01-27T00:00:01.5Z").contains(">00:00:01 UTC<"));
        assert!(at("2026-01-26T23:59:59Z").contains(">2026-01-26 23:59:59 UTC<"));
    }

    #[test]
    fn a_bar_ends_where_it_must() {
        assert!(
            Bar(0.5)
                .to_string()
                .contains("class=\"within\" width=\"100.0\"")
        );
        assert!(!Bar(1.0).to_string().contains("over"));
        let endless = Bar(f64::INFINITY).to_string();
        assert!(
            endless.contains("class=\"over\" x=\"200.0\" width=\"100.0\""),
            "{endless}"
        );
    }
}
