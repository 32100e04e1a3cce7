//! Every answer, key, server and topology that the exporter reads.

mod bad_answers;
mod captures;
mod connections;
mod credentials;
mod faults;
mod keys;
mod kinds;
mod redis_access;
mod redis_servers;
mod scale;
mod topology;
mod written_keys;
