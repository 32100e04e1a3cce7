//! The servers of a collection: connects to each, asks it for the written keys, and names the servers that could not be read.

use futures_util::future::join_all;

use crate::observation::{Collector, Failure, Reason};
use crate::observe::counters::invalidations::{Changes, Names};
use crate::observe::counters::reader::KeyReader;
use crate::observe::counters::shard_reader::{Readied, Ready, ShardReader, ready};
use crate::observe::counters::sweep_report::passed_over;
use crate::observe::counters::sweep_result::SweepResult;
use crate::observe::redis::cluster::Shard;
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::topology::ShardNow;

impl KeyReader {
    /// Connects to every server that answers, and notes those that cannot be read.
    pub(super) async fn get_ready(
        &mut self,
        shards: &[ShardNow],
        result: &mut SweepResult,
    ) -> Vec<Option<Ready>> {
        let found: Vec<Shard> = shards.iter().map(|now| now.shard.clone()).collect();
        if self.shards != found {
            // The servers that the previous collection left may have other indices.
            self.between = None;
            if let Some(pass) = &mut self.pass {
                pass.moved = true;
            }
            self.readers
                .retain(|primary, _| found.iter().any(|shard| shard.primary == *primary));
            self.shards = found;
        }
        let (context, unreachable) = ((&self.access, &self.tracked), &self.unreachable);
        let work = shards.iter().map(|now| {
            let primary = &now.shard.primary;
            let reader = self.readers.entry(primary.clone());
            // Stored here, so that its connections survive if this future is dropped.
            let reader = reader.or_insert_with(|| ShardReader::new(context, primary));
            let before = Some(reader.clone());
            async move {
                if let Err(failure) = &now.ping {
                    // The failed PING reports that it does not answer.
                    let failure = RedisFailure {
                        reason: Reason::RedisDown,
                        message: failure.message.clone(),
                    };
                    return (before, Err(failure), Vec::new());
                }
                if let Some(stale) = now.state.iter().find_map(|state| state.stale.clone()) {
                    // Once the replica follows its primary again, it has other data: the writes that it reported until then are
                    // useless.
                    return (None, Err(stale), Vec::new());
                }
                let Readied {
                    reader,
                    ready,
                    passed_over,
                } = ready(before, context, now, unreachable).await;
                (Some(reader), ready, passed_over)
            }
        });
        let work: Vec<_> = work.collect();
        let mut servers = Vec::with_capacity(shards.len());
        for (place, done) in join_all(work).await.into_iter().enumerate() {
            let (reader, ready, passed_over) = done;
            let primary = &shards[place].shard.primary;
            let source = reader.as_ref().map_or(primary, |reader| &reader.source);
            result.sources.push(source.clone());
            result.missing.extend(passed_over);
            match reader {
                Some(reader) => self.readers.insert(primary.clone(), reader),
                None => self.readers.remove(primary),
            };
            if let Ok(Ready {
                changes: Changes::NotReported(Some(failure)),
                ..
            }) = &ready
            {
                let source = result.sources[place].clone();
                result.missing.push((source, failure.clone()));
            }
            match ready {
                Ok(ready) => servers.push(Some(ready)),
                Err(failure) => {
                    result.failed.insert(place, failure);
                    servers.push(None);
                }
            }
        }
        servers
    }

    /// Drops the connections to servers that failed: answers that nothing waits for may still be in flight.
    pub(super) fn replace_failed(&self, result: &SweepResult) {
        for (place, shard) in self.shards.iter().enumerate() {
            if result.failed.contains_key(&place)
                && let Some(reader) = self.readers.get(&shard.primary)
            {
                reader.replace();
            }
        }
    }

    /// The keys that were written since the last collection, by server. If they are unknown or too many, a whole pass is due.
    pub(super) fn written(&mut self, servers: &mut [Option<Ready>]) -> Vec<(usize, Names)> {
        let mut written = Vec::new();
        let mut count = 0;
        for (lane, server) in servers.iter_mut().enumerate() {
            match server.as_mut().map(|server| &mut server.changes) {
                Some(Changes::Names(names)) => {
                    count += names.len() as u64;
                    written.push((lane, std::mem::take(names)));
                }
                // Keys behind the current pass may have been written since: it continues, and another one follows.
                Some(Changes::Unknown) if self.steady.is_none() && self.pass.is_some() => {
                    self.behind = true;
                }
                Some(Changes::Unknown) => self.begin_anew(),
                // The current pass relied on reports of writes.
                Some(Changes::NotReported(_)) | None if self.steady.is_some() => self.begin_anew(),
                Some(Changes::NotReported(_)) | None => {}
            }
        }
        if self.steady.is_some_and(|last| last.is_storm(count)) {
            self.begin_anew();
            // The pass that begins now reads all of them.
            return Vec::new();
        }
        written
    }

    pub(super) fn failures(&self, result: &SweepResult) -> Vec<Failure> {
        let described = self.memory.described.as_ref();
        let to_set = described.and_then(|described| described.to_set.as_deref());
        let mut failures = passed_over(result, self.label, to_set);
        failures.extend(result.api.iter().cloned());
        // The address of a single server is in the configuration.
        let cluster = self.shards.len() > 1;
        for (place, failure) in &result.failed {
            // The failed PING reports that a server is down.
            if failure.reason != Reason::RedisDown {
                let subject = self.shards.get(*place).filter(|_| cluster);
                let subject = subject.map_or("", |shard| shard.primary.as_str());
                failures.push(failure.clone().counted(Collector::Counters, subject));
            }
        }
        for (server, failure) in &result.missing {
            failures.push(failure.clone().counted(Collector::Counters, server));
        }
        if let Some(failure) = &result.alone {
            failures.push(failure.clone().counted(Collector::Counters, ""));
        }
        if result.failed.is_empty() && result.stopped == Some(Reason::Deadline) {
            let message = "the sweep of the counters was cut off";
            failures.push(Failure::new(
                Collector::Counters,
                "",
                Reason::Deadline,
                message,
            ));
        }
        failures
    }
}
