//! The port: which clients may log in, and how many connections and how much time a client gets.

mod access;
mod changes;
mod limits;
mod port;
