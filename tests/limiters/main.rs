//! Tests the kinds of limiters on dumps of real ones in `captures/`. Each dump is put into a store in memory that answers Redis
//! commands, and by `restored.rs` into a real server with the clock of the dump.

#![expect(
    clippy::unwrap_used,
    clippy::similar_names,
    reason = "tests: what is missing in a capture fails the test, and names are those of the captures"
)]

mod bad_values;
mod broken;
mod bytes;
mod captures;
mod fallen;
mod formulas;
#[path = "../integration/harness.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with the integration tests, which use all of it"
)]
mod harness;
mod npm_and_go;
mod older;
mod own;
mod python_php;
mod releases;
mod restored;
mod rows;
mod store;
mod variants;
