//! The port: who is let in, and what a client may take.

mod access;
mod changes;
mod limits;
mod port;
