//! The documents say what the code does.

mod architecture;
mod dependencies;
mod reference;
mod written;
