//! The durations of decisions in a node's metrics: a histogram or a summary, in seconds or milliseconds. Pure.

use crate::limiters::{Latency, Unit};
use crate::observation::Histogram;
use crate::observe::latency::exposition::{Sample, histogram_of, sane};

/// The durations in one reading.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::observe) enum Measured {
    /// The series do not exist.
    Missing,
    /// The series exist, but are neither a histogram nor a summary with a p99.
    Broken,
    /// A histogram, in seconds.
    Histogram(Histogram),
    /// The p99 in seconds as the node computes it, if it has samples, and the number of all samples.
    Summary { p99: Option<f64>, count: f64 },
}

impl Latency {
    /// Converts a value of the series to seconds.
    pub(in crate::observe) fn seconds(&self, value: f64) -> f64 {
        match self.unit {
            Unit::Seconds => value,
            unit => unit.to_ms(value) / 1e3,
        }
    }

    /// Whether `name` is one of the series.
    pub(in crate::observe) fn wants(&self, name: &str) -> bool {
        name.strip_prefix(self.metric.metric.as_str())
            .is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count"))
    }

    /// The durations in `samples`, summed over all matching label sets.
    pub(in crate::observe) fn read(&self, samples: &[Sample]) -> Measured {
        let metric = &self.metric.metric;
        let takes = |sample: &Sample| self.metric.selects(metric, |name| sample.label(name));
        let mine = || {
            let mut all = samples.iter();
            all.any(|sample| self.wants(&sample.name) && takes(sample))
        };
        let quantiles = samples
            .iter()
            .filter(|sample| sample.name == *metric && sample.label("quantile").is_some());
        let quantiles: Vec<&Sample> = quantiles.filter(|sample| takes(sample)).collect();
        let histogram = histogram_of(metric, takes, samples);
        if quantiles.is_empty() {
            return match histogram {
                Some(mut histogram) => {
                    for (bound, _) in &mut histogram.buckets {
                        *bound = self.seconds(*bound);
                    }
                    histogram.sum = histogram.sum.map(|sum| self.seconds(sum));
                    Measured::Histogram(histogram)
                }
                None if mine() => Measured::Broken,
                None => Measured::Missing,
            };
        }
        let is_p99 = |sample: &&&Sample| {
            let quantile = sample.label("quantile").and_then(|q| q.parse::<f64>().ok());
            quantile.is_some_and(|quantile| (quantile - 0.99).abs() < 1e-9)
        };
        let p99s: Vec<&&Sample> = quantiles.iter().filter(is_p99).collect();
        let Some(histogram) = histogram.filter(|_| !p99s.is_empty()) else {
            return Measured::Broken;
        };
        // A series without samples has the value NaN.
        let measured = p99s.iter().map(|sample| sample.value);
        let measured = measured.filter(|value| sane(*value) && *value >= 0.0);
        Measured::Summary {
            p99: measured.reduce(f64::max).map(|p99| self.seconds(p99)),
            count: histogram.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::Selector;
    use crate::observe::latency::exposition::parse;

    fn read(metric: &str, unit: Unit, text: &str) -> Measured {
        let durations = Latency {
            metric: Selector::parse(metric).unwrap(),
            unit,
        };
        let samples = parse(text, |name| durations.wants(name)).unwrap();
        durations.read(&samples)
    }

    #[test]
    fn milliseconds_become_seconds() {
        let text = "d_bucket{type=\"apisix\",le=\"50\"} 3\nd_bucket{type=\"apisix\",le=\"+Inf\"} 4\n\
                    d_bucket{type=\"upstream\",le=\"+Inf\"} 9\nd_sum{type=\"apisix\"} 100\n";
        let Measured::Histogram(histogram) = read("d{type=\"apisix\"}", Unit::Milliseconds, text)
        else {
            panic!("no histogram");
        };
        assert_eq!(histogram.buckets, [(0.05, 3.0)]);
        assert_eq!((histogram.count, histogram.sum), (4.0, Some(0.1)));
    }

    #[test]
    fn labels_can_be_patterns() {
        let text = "d_count{key=\"a.1\"} 1\nd_count{key=\"a.2\"} 2\nd_count{key=\"b\"} 4\n";
        let found = read("d{key=~\"a\\\\..*\"}", Unit::Seconds, text);
        let Measured::Histogram(histogram) = found else {
            panic!("{found:?}");
        };
        assert_eq!(histogram.count.to_bits(), 3.0_f64.to_bits());
    }

    #[test]
    fn the_slowest_summary_is_used_and_one_without_a_p99_is_broken() {
        let text = "d{le=\"x\",quantile=\"0.5\"} 1\nd{quantile=\"0.99\",of=\"a\"} 0.002\n\
                    d{quantile=\"0.99\",of=\"b\"} 0.07\nd_count{of=\"a\"} 5\nd_count{of=\"b\"} 6\n";
        let expected = Measured::Summary {
            p99: Some(0.07),
            count: 11.0,
        };
        assert_eq!(read("d", Unit::Seconds, text), expected);
        let none = "d{quantile=\"0.99\"} NaN\nd_count 5\n";
        let expected = Measured::Summary {
            p99: None,
            count: 5.0,
        };
        assert_eq!(read("d", Unit::Seconds, none), expected);
        let broken = "d{quantile=\"0.5\"} 1\nd_count 5\n";
        assert_eq!(read("d", Unit::Seconds, broken), Measured::Broken);
        assert_eq!(read("d", Unit::Seconds, "e 1\n"), Measured::Missing);
    }
}
