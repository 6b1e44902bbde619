//! See `targets::eve`.
#![no_main]

#[allow(dead_code)]
#[path = "../../agent/tests/hostile/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::eve(input));
