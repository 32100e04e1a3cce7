//! `ratelimiter_exporter::fuzzing::limiter_values` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratelimiter_exporter::fuzzing::limiter_values(data));
