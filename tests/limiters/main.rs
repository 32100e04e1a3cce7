//! Kinds of limiters, on what real ones left in Redis: each dump in `captures/` is put into a store in memory, which
//! answers the commands to Redis, and (`restored.rs`) into a real server whose clock is the dump's own.

#![expect(
    clippy::unwrap_used,
    clippy::similar_names,
    reason = "tests: what is missing in a capture fails the test, and names are those of the captures"
)]

mod bad_values;
mod broken;
mod bytes;
mod captures;
mod formulas;
#[path = "../integration/harness.rs"]
#[expect(
    dead_code,
    reason = "shared with the integration tests, which use all of it"
)]
mod harness;
mod older;
mod own;
mod restored;
mod rows;
mod store;
