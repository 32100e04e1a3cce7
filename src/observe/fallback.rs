//! Gets one answer from several servers that could give it.

use futures_util::StreamExt as _;
use futures_util::stream;

/// How many attempts run at the same time after the first one failed.
const AT_ONCE: usize = 4;

/// Runs the first attempt alone. If it fails, returns the quickest success of the others, so that several attempts that
/// hang take no longer than two. Without a success, returns all failures in the order in which they came.
pub(in crate::observe) async fn first_success<T, E>(
    attempts: Vec<impl Future<Output = Result<T, E>>>,
) -> Result<T, Vec<E>> {
    let mut failures = Vec::new();
    let mut attempts = attempts.into_iter();
    let Some(first) = attempts.next() else {
        return Err(failures);
    };
    match first.await {
        Ok(success) => return Ok(success),
        Err(failure) => failures.push(failure),
    }
    let mut others = Box::pin(stream::iter(attempts).buffer_unordered(AT_ONCE));
    while let Some(outcome) = others.next().await {
        match outcome {
            Ok(success) => return Ok(success),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
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
            (&["a", "b"][..], Ok("a"), 1),
            (&["fails", "hangs", "hangs", "a", "b"], Ok("a"), 4),
            (&["fails", "fails"], Err(2), 2),
            (&[], Err(0), 0),
        ] {
            let asked = AtomicUsize::new(0);
            let attempts = kinds.iter().map(|kind| attempt(kind, &asked)).collect();
            let found = first_success(attempts).await;
            let found = found.as_deref().map_err(Vec::len);
            assert_eq!(found, outcome, "{kinds:?}");
            assert_eq!(asked.load(Ordering::Relaxed), count, "{kinds:?}");
        }
    }
}
