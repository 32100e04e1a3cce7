//! `ratelimiter_exporter::fuzzing::limiter_description` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratelimiter_exporter::fuzzing::limiter_description(data));
