use std::sync::atomic::AtomicU8;

use super::*;
use crate::invariants::CheckerConfig;
use crate::subject::{ActionDefinition, CounterSink};

const GOOD: u8 = 0;
const PANICS: u8 = 1;
const HANGS: u8 = 2;

/// Behaves as it is told, whatever the deadline.
struct Subject(Arc<AtomicU8>);

impl crate::subject::Subject for Subject {
    async fn observe(
        &mut self,
        _: watch::Receiver<Instant>,
        _: Vec<Box<[u8]>>,
        _: &mut dyn CounterSink,
    ) -> Observation {
        match self.0.load(Ordering::Relaxed) {
            GOOD => Observation::default(),
            PANICS => panic!("as it was told"),
            _ => std::future::pending().await,
        }
    }

    async fn glance(&mut self) {}

    fn memory(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn recall(&mut self, _: serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    fn succeed(&mut self, _: Self) -> bool {
        true
    }

    fn actions(&self) -> &'static [ActionDefinition] {
        &[]
    }
}

fn collect(behaviour: &Arc<AtomicU8>) -> Arc<Collect<Subject>> {
    let checker = Checker::new(CheckerConfig::default(), KeyLabel::Plain);
    let subject = Subject(Arc::clone(behaviour));
    let keep = Keep {
        max_series: 1,
        ..Keep::default()
    };
    Arc::new(Collect::new(subject, checker, Clock::start(), keep))
}

#[tokio::test]
async fn collections_that_die_are_overdue_until_one_does_not() {
    let behaviour = Arc::new(AtomicU8::new(PANICS));
    let collect = collect(&behaviour);
    let now = Instant::now();
    let late = now + OVERDUE * 2;
    assert_eq!(collect.overdue(late), None, "none was wanted");
    for _ in 0..3 {
        assert!(collect.snapshot(now).await.is_none());
    }
    assert_eq!(collect.overdue(now), None);
    assert_eq!(collect.overdue(late), Some(OVERDUE));
    behaviour.store(GOOD, Ordering::Relaxed);
    assert!(collect.snapshot(now).await.is_some());
    assert_eq!(collect.overdue(late), None);
}

#[tokio::test]
async fn one_that_hangs_is_overdue_and_nobody_waits_for_it_for_ever() {
    let collect = collect(&Arc::new(AtomicU8::new(HANGS)));
    let now = Instant::now();
    // As if both had waited as long as there is patience.
    let past = now.checked_sub(OVERDUE).unwrap_or(now);
    assert!(collect.snapshot(past).await.is_none());
    assert!(collect.snapshot(past).await.is_none());
    assert!(collect.overdue(now + OVERDUE).is_some());
}
