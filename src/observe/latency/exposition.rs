//! Reads the wanted series from a node's Prometheus text, in either text format (0.0.4 and `OpenMetrics`). Other lines are
//! skipped unparsed: mistakes in them do no harm.

use crate::observation::Histogram;

/// The largest value that is accepted: no counter reaches it, and sums of such values stay finite.
const MOST: f64 = 1e18;

/// How many buckets a histogram may have: a hundred times the usual number. Each costs a series, and memory for a minute.
const MOST_BUCKETS: usize = 1000;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::observe) struct Sample {
    /// Its line number.
    pub(in crate::observe) line: usize,
    pub(in crate::observe) name: String,
    pub(in crate::observe) labels: Vec<(String, String)>,
    /// Any number, including NaN and infinity.
    pub(in crate::observe) value: f64,
}

impl Sample {
    /// The value, if a counter can have it.
    pub(in crate::observe) fn count(&self) -> Option<f64> {
        Some(self.value).filter(|value| sane(*value) && *value >= 0.0)
    }

    pub(in crate::observe) fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| label == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The samples whose name `wanted` accepts. An error names the line.
///
/// A text without any line of metrics is an error: a proxy's page says nothing about the node, and a series that is missing
/// from it must not look like one that the node does not count. The content type is no help: Flask sends `text/html` for
/// everything.
pub(in crate::observe) fn parse(
    text: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Sample>, String> {
    if !is_metrics(text) {
        let first = text.lines().find(|line| !line.trim().is_empty());
        let first = cut(first.unwrap_or_default().trim());
        return Err(format!("line 1: not metrics: {first:?}"));
    }
    let mut samples = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let (name, rest) = split_name(line);
        if line.is_empty() || line.starts_with('#') || !wanted(name) {
            continue;
        }
        let mut sample = parse_rest(name, rest)
            .ok_or_else(|| format!("line {}: not a sample: {:?}", index + 1, cut(line)))?;
        sample.line = index + 1;
        samples.push(sample);
    }
    Ok(samples)
}

/// Whether the text has a sample or a comment of metrics. A page in HTML or XML has none.
fn is_metrics(text: &str) -> bool {
    let is_sample = |line: &str| {
        let (name, rest) = split_name(line);
        is_name(name) && parse_rest(name, rest).is_some()
    };
    let comments = ["# HELP ", "# TYPE ", "# UNIT ", "# EOF"];
    let is_comment = |line: &str| comments.iter().any(|comment| line.starts_with(comment));
    let mut lines = text.lines().map(str::trim);
    !text.trim_start().starts_with('<') && lines.any(|line| is_comment(line) || is_sample(line))
}

/// The name at the beginning of a line, and the rest.
fn split_name(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace());
    line.split_at(end.unwrap_or(line.len()))
}

/// Whether this is a valid metric name.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn cut(line: &str) -> String {
    line.chars().take(80).collect()
}

fn parse_rest(name: &str, rest: &str) -> Option<Sample> {
    let mut labels = Vec::new();
    let mut rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.push((label.trim().to_owned(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
    }
    // A timestamp or an exemplar may follow the value. Neither is needed.
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample {
        line: 1,
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// Whether the value is usable. `NaN` and infinity are not: they are no counts, and JSON cannot contain them.
pub(in crate::observe) fn sane(value: f64) -> bool {
    value.abs() <= MOST
}

/// A quoted label value, and the text after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

/// The histogram `name` among `samples`, summed over all label sets that `takes` accepts. `None` if it does not exist.
///
/// `_count` replaces a missing `+Inf` bucket. Without both, or with a bound or a bucket that is not a usable number, there
/// is no histogram. A sum that is not a usable number is left out.
pub(in crate::observe) fn histogram_of(
    name: &str,
    takes: impl Fn(&Sample) -> bool,
    samples: &[Sample],
) -> Option<Histogram> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let (mut inf, mut count, mut sum) = (None::<f64>, None::<f64>, None::<f64>);
    for sample in samples.iter().filter(|sample| takes(sample)) {
        match sample.name.strip_prefix(name) {
            Some("_bucket") => {
                let le: f64 = sample.label("le")?.parse().ok()?;
                if le == f64::INFINITY {
                    *inf.get_or_insert(0.0) += sample.count()?;
                } else if sane(le) {
                    buckets.push((le, sample.count()?));
                } else {
                    return None;
                }
            }
            Some("_count") => {
                *count.get_or_insert(0.0) += sample.count().unwrap_or(f64::NAN);
            }
            Some("_sum") => *sum.get_or_insert(0.0) += sample.value,
            _ => {}
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    buckets.dedup_by(|next, kept| {
        let same = next.0.to_bits() == kept.0.to_bits();
        if same {
            kept.1 += next.1;
        }
        same
    });
    let count = inf.or(count).filter(|count| sane(*count))?;
    (buckets.len() <= MOST_BUCKETS).then_some(Histogram {
        count,
        buckets,
        sum: sum.filter(|sum| sane(*sum)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The histogram `d`.
    fn histogram(samples: &[Sample]) -> Option<Histogram> {
        histogram_of("d", |_| true, samples)
    }

    #[test]
    fn labels_of_any_text_are_read() {
        let text = "m{a=\"x,y}\",b=\"q\\\"\\\\\\n\"} 1.5 1700000000\nm 2\n# m 3\nother{ nonsense\n";
        let samples = parse(text, |name| name == "m").unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].label("a"), Some("x,y}"));
        assert_eq!(samples[0].label("b"), Some("q\"\\\n"));
        assert!((samples[1].value - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn an_invalid_sample_is_an_error_with_its_line_number() {
        let error = parse("m 1\nm{a=\"x} 2\n", |name| name == "m").unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
    }

    #[test]
    fn a_web_page_is_not_metrics() {
        let pages = [
            "<!DOCTYPE html>\n<html><body>\nretry 5\n</body></html>\n",
            "\n  <html>\nm 1\n</html>",
            "{\"error\":\"not found\"}\n",
            "404 page not found\n",
            "Service Unavailable: retry later",
            "OK",
            "",
            "\n\n",
        ];
        for page in pages {
            let error = parse(page, |name| name == "m").unwrap_err();
            assert!(error.starts_with("line 1:"), "{page:?}: {error}");
        }
        for text in [
            "# HELP d Durations.\n# TYPE d histogram\n",
            "other{a=\"b\"} 1\n",
            "# EOF\n",
            "up NaN\n",
        ] {
            assert_eq!(parse(text, |name| name == "m").unwrap(), []);
        }
    }

    #[test]
    fn a_value_that_is_not_a_count_breaks_only_its_own_histogram() {
        let read = |text: &str| {
            let text = text.to_owned() + "d_bucket{le=\"+Inf\"} 5\nm 1\n";
            let samples = parse(&text, |_| true).unwrap();
            assert_eq!(
                samples.iter().filter(|sample| sample.name == "m").count(),
                1
            );
            histogram(&samples)
        };
        for value in ["NaN", "+Inf", "-Inf", "1e999", "1e300"] {
            let histogram = read(&format!("d_bucket{{le=\"0.1\"}} 3\nd_sum {value}\n")).unwrap();
            assert_eq!((histogram.count, histogram.sum), (5.0, None), "{value}");
            let histogram = read(&format!("d_bucket{{le=\"0.1\"}} 3\nd_count {value}\n")).unwrap();
            assert_eq!(histogram.buckets, [(0.1, 3.0)], "{value}");
            let text = format!("d_bucket{{le=\"0.1\"}} {value}\nd_sum 1\n");
            assert_eq!(read(&text), None, "{value}");
        }
        assert_eq!(read("d_bucket{le=\"0.1\"} -1\n"), None);
    }

    #[test]
    fn a_histogram_with_invalid_or_too_many_bounds_is_rejected() {
        let bucket = |le: &str| format!("d_bucket{{le=\"{le}\"}} 1\n");
        let endless: String = (0..=2 * MOST_BUCKETS)
            .map(|le| bucket(&le.to_string()))
            .collect();
        for text in [bucket("NaN"), bucket("-Inf"), bucket("1e300"), endless] {
            let samples = parse(&(text + "d_count 1\n"), |_| true).unwrap();
            assert_eq!(histogram(&samples), None);
        }
    }

    #[test]
    fn the_count_replaces_a_missing_inf_bucket() {
        let text = "d_bucket{le=\"0.1\"} 3\nd_bucket{le=\"0.05\"} 1\nd_count 5\nd_sum 0.9\n";
        let samples = parse(text, |name| name.starts_with('d')).unwrap();
        let whole = histogram(&samples).unwrap();
        assert_eq!(whole.buckets, [(0.05, 1.0), (0.1, 3.0)]);
        assert!((whole.count - 5.0).abs() < f64::EPSILON);
        assert_eq!(histogram(&samples[..2]), None);
    }
}
