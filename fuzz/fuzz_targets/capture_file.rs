//! See `targets::capture_file`.
#![no_main]

#[allow(dead_code)]
#[path = "../../agent/tests/hostile/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::capture_file(input));
