//! Who shares which collection. Requests that arrive together share one, which ends by the earliest deadline among them.
//! Somebody with next to no time does not take it from the others, though: such a collection sees nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::snapshot::Snapshot;

/// What a collection is left that was begun with more: twice the time that a source gets by default.
const LEAST: Duration = Duration::from_secs(2);

type Done = watch::Receiver<Option<Arc<Snapshot>>>;

/// The collections that are under way or about to be.
#[derive(Debug, Default)]
pub(super) struct SingleFlight {
    /// The one that may be joined: the last that was begun.
    current: Option<Shared>,
    /// When the collection that is wanted was to be finished; `None` while none is.
    pub(super) owed: Option<Instant>,
}

/// A collection, seen by who waits for it.
#[derive(Debug)]
struct Shared {
    begun: Instant,
    deadline: watch::Sender<Instant>,
    done: Done,
}

/// A collection, seen by who makes it.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) deadline: watch::Receiver<Instant>,
    pub(super) finished: watch::Sender<Option<Arc<Snapshot>>>,
}

impl SingleFlight {
    /// Joins the collection under way, or begins one, which is then to be made.
    pub(super) fn join(&mut self, now: Instant, deadline: Instant) -> (Done, Option<Leader>) {
        let owed = self.owed.get_or_insert(deadline);
        *owed = deadline.min(*owed);
        // One whose task died can be joined no more.
        let alive = |shared: &&Shared| shared.done.has_changed().is_ok();
        let current = self.current.as_ref().filter(alive);
        if let Some(shared) = current.filter(|shared| shared.will_do(now, deadline)) {
            shared.hasten(deadline);
            return (shared.done.clone(), None);
        }
        let (deadline, deadline_seen) = watch::channel(deadline);
        let (finished, done) = watch::channel(None);
        self.current = Some(Shared {
            begun: now,
            deadline,
            done: done.clone(),
        });
        let leader = Leader {
            deadline: deadline_seen,
            finished,
        };
        (done, Some(leader))
    }

    /// The collection of `leader` is over; another one may have been begun behind it.
    pub(super) fn end(&mut self, leader: &Leader) {
        let next = self
            .current
            .take()
            .filter(|shared| !shared.done.same_channel(&leader.finished.subscribe()));
        self.owed = next.as_ref().map(|shared| *shared.deadline.borrow());
        self.current = next;
    }
}

impl Shared {
    /// Whether it is of use to who has until `deadline`: not if it was given less than half of that, and little.
    fn will_do(&self, now: Instant, deadline: Instant) -> bool {
        let given = self.deadline.borrow().duration_since(self.begun);
        given >= LEAST || given * 2 >= deadline.duration_since(now)
    }

    fn hasten(&self, deadline: Instant) {
        let deadline = deadline.max(self.begun + LEAST);
        self.deadline.send_if_modified(|current| {
            let sooner = deadline < *current;
            *current = deadline.min(*current);
            sooner
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn who_is_in_a_hurry_hastens_the_others_but_takes_no_more_than_they_can_spare() {
        for (joiner, left) in [
            (MILLIS(9500), 9500),
            (MILLIS(4500), 4500),
            (MILLIS(1000), 2000),
            (MILLIS(1), 2000),
            (MILLIS(60_000), 9500),
        ] {
            let (mut single_flight, now) = (SingleFlight::default(), Instant::now());
            let (_, leader) = single_flight.join(now, now + MILLIS(9500));
            let leader = leader.unwrap();
            let (_, other) = single_flight.join(now, now + joiner);
            assert!(other.is_none(), "{joiner:?}");
            let until = leader.deadline.borrow().duration_since(now);
            assert_eq!(until, MILLIS(left), "{joiner:?}");
        }
    }

    #[test]
    fn a_collection_with_next_to_no_time_is_not_shared_by_who_has_more() {
        for (first, joiner, shared) in [
            (MILLIS(1), MILLIS(9500), false),
            (MILLIS(200), MILLIS(201), true),
            (MILLIS(200), MILLIS(500), false),
            (MILLIS(1999), MILLIS(9500), false),
            (MILLIS(2000), MILLIS(9500), true),
            (MILLIS(0), MILLIS(0), true),
        ] {
            let (mut single_flight, now) = (SingleFlight::default(), Instant::now());
            let _first = single_flight.join(now, now + first);
            let (_, second) = single_flight.join(now, now + joiner);
            assert_eq!(second.is_none(), shared, "{first:?} {joiner:?}");
        }
    }

    #[test]
    fn the_next_one_is_joined_while_the_one_before_is_still_under_way_and_owed_after_it() {
        let (mut single_flight, now) = (SingleFlight::default(), Instant::now());
        let (_, first) = single_flight.join(now, now + MILLIS(1));
        let (_, second) = single_flight.join(now, now + MILLIS(9500));
        let second = second.unwrap();
        let (joined, third) = single_flight.join(now, now + MILLIS(9500));
        assert!(third.is_none() && joined.same_channel(&second.finished.subscribe()));
        single_flight.end(&first.unwrap());
        assert_eq!(single_flight.owed, Some(now + MILLIS(9500)));
        let (_, third) = single_flight.join(now, now + MILLIS(9500));
        assert!(third.is_none());
        single_flight.end(&second);
        assert_eq!(single_flight.owed, None);
        assert!(single_flight.join(now, now + MILLIS(9500)).1.is_some());
    }
}
