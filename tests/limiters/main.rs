//! Kinds of limiters, on what real ones left in Redis: each dump in `captures/` is put into a store in memory, which
//! answers what is asked of Redis. Nothing here needs a server.

mod broken;
mod bytes;
mod captures;
mod formulas;
mod rows;
mod store;
