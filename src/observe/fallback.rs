//! Gets one answer from several servers that could give it.

use futures_util::StreamExt as _;
use futures_util::stream;

/// How many attempts run at the same time after the first one failed.
const AT_ONCE: usize = 4;

/// Runs the first attempt alone. If it fails, returns the quickest success of the others, so that several attempts that
/// hang take no longer than two. Also returns all failures until then in the order in which they came.
pub(in crate::observe) async fn first_success<T, E>(
    attempts: Vec<impl Future<Output = Result<T, E>>>,
) -> (Option<T>, Vec<E>) {
    let mut attempts = attempts.into_iter();
    let first = stream::iter(attempts.next()).then(|attempt| attempt);
    let others = stream::iter(attempts).buffer_unordered(AT_ONCE);
    let mut outcomes = Box::pin(first.chain(others));
    let mut failures = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(success) => return (Some(success), failures),
            Err(failure) => failures.push(failure),
        }
    }
    (None, failures)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails, hangs, or succeeds, and counts the call.
    async fn attempt(kind: &str, asked: &AtomicUsize) -> Result<String, String> {
        asked.fetch_add(1, Ordering::Relaxed);
        match kind {
            "fails" => Err(kind.to_owned()),
            "hangs" => std::future::pending().await,
            _ => Ok(kind.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_hanging_fallback_does_not_delay_the_others() {
        for (kinds, outcome, count) in [
            (&["a", "b"][..], (Some("a"), 0), 1),
            (&["fails", "hangs", "hangs", "a", "b"], (Some("a"), 1), 4),
            (&["fails", "fails"], (None, 2), 2),
            (&[], (None, 0), 0),
        ] {
            let asked = AtomicUsize::new(0);
            let attempts = kinds.iter().map(|kind| attempt(kind, &asked)).collect();
            let (found, failures) = first_success(attempts).await;
            assert_eq!((found.as_deref(), failures.len()), outcome, "{kinds:?}");
            assert_eq!(asked.load(Ordering::Relaxed), count, "{kinds:?}");
        }
    }
}
