//! Every answer, key, server and topology that the exporter reads.

mod bad_answers;
mod captures;
mod connections;
mod credentials;
mod distant_redis;
mod fallen_limits;
mod faults;
mod keys;
mod kind_check;
mod kind_costs;
mod kind_nodes;
mod kind_values;
mod kinds;
mod nodes;
mod redis_access;
mod redis_servers;
mod restarts;
mod scale;
mod topology;
mod unread_evidence;
mod written_keys;
