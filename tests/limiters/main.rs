//! Kinds of limiters, on what real ones left in Redis: each dump in `captures/` is put into a store in memory, which
//! answers what is asked of Redis. Nothing here needs a server.

#![expect(
    clippy::unwrap_used,
    clippy::similar_names,
    reason = "tests: what is missing in a capture fails the test, and names are those of the captures"
)]

mod broken;
mod bytes;
mod captures;
mod formulas;
mod own;
mod rows;
mod store;
