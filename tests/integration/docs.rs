//! The documents say what the code does.

mod architecture;
mod commands;
mod dependencies;
mod limiters;
mod links;
mod markdown;
mod names;
mod reference;
mod written;
