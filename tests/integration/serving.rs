//! What the exporter says, to whom it says it, and how it starts, reloads and ends.

mod actions;
mod api;
mod browser;
mod cli;
mod configuration;
mod life_cycle;
mod page;
mod reload;
mod scraping;
mod secrets;
mod targets;
