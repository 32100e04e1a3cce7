//! Which requests share a collection. Requests that arrive together share one, which ends by the earliest of their
//! deadlines. A request with almost no time left does not shorten the collection of the others: such a collection would
//! read nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::snapshot::Snapshot;

/// The least time that a shared collection keeps if it began with more: twice the default timeout of a source.
const LEAST: Duration = Duration::from_secs(2);

type Done = watch::Receiver<Option<Arc<Snapshot>>>;

/// The collections that are under way or about to be.
#[derive(Debug, Default)]
pub(super) struct SingleFlight {
    /// The last one that was begun. Requests may join it.
    current: Option<Shared>,
    /// When the collection that is wanted should have ended; `None` while none is wanted.
    pub(super) due: Option<Instant>,
}

/// A collection, as its waiting requests see it.
#[derive(Debug)]
struct Shared {
    begun: Instant,
    deadline: watch::Sender<Instant>,
    done: Done,
}

/// A collection, as its task sees it.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) deadline: watch::Receiver<Instant>,
    pub(super) finished: watch::Sender<Option<Arc<Snapshot>>>,
}

impl SingleFlight {
    /// Joins the collection under way, or begins one: then the caller runs it with the [`Leader`].
    pub(super) fn join(&mut self, now: Instant, deadline: Instant) -> (Done, Option<Leader>) {
        let due = self.due.get_or_insert(deadline);
        *due = deadline.min(*due);
        // A collection whose task panicked cannot be joined.
        let alive = |shared: &&Shared| shared.done.has_changed().is_ok();
        let current = self.current.as_ref().filter(alive);
        if let Some(shared) = current.filter(|shared| shared.has_enough_time(now, deadline)) {
            shared.shorten(deadline);
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

    /// The collection of `leader` is over. Another one may have begun meanwhile.
    pub(super) fn end(&mut self, leader: &Leader) {
        let next = self
            .current
            .take()
            .filter(|shared| !shared.done.same_channel(&leader.finished.subscribe()));
        self.due = next.as_ref().map(|shared| *shared.deadline.borrow());
        self.current = next;
    }
}

impl Shared {
    /// Whether its time is enough for a request with `deadline`: it has at least [`LEAST`], or half of the time of the
    /// request.
    fn has_enough_time(&self, now: Instant, deadline: Instant) -> bool {
        let given = self.deadline.borrow().duration_since(self.begun);
        given >= LEAST || given * 2 >= deadline.duration_since(now)
    }

    fn shorten(&self, deadline: Instant) {
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
    fn an_earlier_deadline_shortens_a_collection_to_two_seconds_at_the_least() {
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
    fn a_collection_with_almost_no_time_is_not_shared_with_requests_that_have_more() {
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
    fn the_next_collection_is_joined_while_the_previous_one_is_under_way_and_due_after_it() {
        let (mut single_flight, now) = (SingleFlight::default(), Instant::now());
        let (_, first) = single_flight.join(now, now + MILLIS(1));
        let (_, second) = single_flight.join(now, now + MILLIS(9500));
        let second = second.unwrap();
        let (joined, third) = single_flight.join(now, now + MILLIS(9500));
        assert!(third.is_none() && joined.same_channel(&second.finished.subscribe()));
        single_flight.end(&first.unwrap());
        assert_eq!(single_flight.due, Some(now + MILLIS(9500)));
        let (_, third) = single_flight.join(now, now + MILLIS(9500));
        assert!(third.is_none());
        single_flight.end(&second);
        assert_eq!(single_flight.due, None);
        assert!(single_flight.join(now, now + MILLIS(9500)).1.is_some());
    }
}
