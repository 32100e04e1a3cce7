//! Long tests side by side on one thread: each has a time limit, and standard error shows each as it ends.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock;

/// A test that takes long.
#[expect(missing_debug_implementations, reason = "its future has none")]
pub struct Job<T> {
    /// Its name when it ends.
    pub name: String,
    /// It starts while fewer jobs than this run.
    pub at_once: usize,
    /// The longest that it may take.
    pub patience: Duration,
    /// The test. An error says what was seen instead.
    pub run: Pin<Box<dyn Future<Output = anyhow::Result<T>>>>,
}

/// Runs jobs, which start in their order, and returns their results in that order. Needs a `LocalSet`.
pub async fn run<T: 'static>(jobs: Vec<Job<T>>) -> Vec<Result<T, String>> {
    let mut waiting = jobs.into_iter().enumerate().peekable();
    let mut running = JoinSet::new();
    let mut started = HashMap::new();
    let mut results = BTreeMap::new();
    loop {
        while let Some((index, job)) = waiting.next_if(|(_, job)| running.len() < job.at_once) {
            let Job {
                name,
                patience,
                run,
                ..
            } = job;
            let task = running.spawn_local(async move {
                let began = clock::instant();
                let outcome = match tokio::time::timeout(patience, run).await {
                    Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                    Err(_) => Err(format!("not finished after {patience:?}")),
                };
                (outcome, began.elapsed())
            });
            started.insert(task.id(), (index, name));
        }
        let Some(ended) = running.join_next_with_id().await else {
            break;
        };
        let (id, outcome, took) = match ended {
            Ok((id, (outcome, took))) => (id, outcome, took),
            Err(error) => (error.id(), Err(error.to_string()), Duration::ZERO),
        };
        if let Some((index, name)) = started.remove(&id) {
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            eprintln!("{verdict:6} {:5.1} s  {name}", took.as_secs_f64());
            if let Err(error) = &outcome {
                eprintln!("       {error}");
            }
            results.insert(index, outcome);
        }
    }
    results.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_are_in_the_order_of_the_jobs_however_they_end() {
        let job = |seconds, run| Job {
            name: String::new(),
            at_once: 2,
            patience: Duration::from_secs(seconds),
            run,
        };
        let (first, second) = tokio::sync::oneshot::channel();
        let jobs: Vec<Job<u8>> = vec![
            job(60, Box::pin(async { Ok(second.await?) })),
            job(60, Box::pin(async { Ok(first.send(1).map_or(0, |()| 2)) })),
            job(0, Box::pin(std::future::pending())),
            job(60, Box::pin(async { anyhow::bail!("not seen") })),
            job(60, Box::pin(async { panic!("a broken test") })),
        ];
        let results = tokio::task::LocalSet::new().run_until(run(jobs)).await;
        let [Ok(1), Ok(2), Err(late), Err(failed), Err(panicked)] = &results[..] else {
            panic!("{results:?}");
        };
        assert_eq!(
            (late.as_str(), failed.as_str()),
            ("not finished after 0ns", "not seen")
        );
        assert!(panicked.contains("panicked"), "{panicked}");
    }
}
