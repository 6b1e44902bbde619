//! Hostile input, for a few seconds and with a seed: what `make fuzz` does for hours with coverage to guide it.
//!
//! Every target takes any bytes and checks what must hold whatever they are. Here the bytes are mutations of
//! [`corpus`]; overflow checks and debug assertions are on. `GNOMON_HOSTILE_ROUNDS=100` runs a hundred times as long,
//! `GNOMON_HOSTILE_SEED` begins elsewhere. A failure prints the input, which belongs into the corpus then.

mod bounds;
mod corpus;
mod mutator;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mutator::Mutator;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn run(target: fn(&[u8]), inputs: &[Vec<u8>], rounds: u64) {
    let rounds = rounds * number("GNOMON_HOSTILE_ROUNDS", 1);
    let mut mutator = Mutator::new(number("GNOMON_HOSTILE_SEED", 20_261_122));
    // What is sound comes first: the corpus itself must pass.
    for input in inputs {
        attempt(target, input);
    }
    for _ in 0..rounds {
        attempt(target, &mutator.mutated(inputs));
    }
}

fn attempt(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("the input was, in hexadecimal: {hex}");
        resume_unwind(panic);
    }
}

#[test]
fn frames_of_every_link_decode_within_bounds() {
    run(targets::decode, &corpus::frames(), 60_000);
}

#[test]
fn sequences_of_frames_lose_no_packet() {
    run(targets::sequence, &corpus::sequences(), 2_000);
}

#[test]
fn damaged_capture_files_give_every_packet_before_the_damage() {
    run(targets::capture_file, &corpus::capture_files(), 6_000);
}

#[test]
fn streams_in_any_pieces_hold_within_their_budget() {
    run(targets::stream, &corpus::streams(), 20_000);
}

#[test]
fn datagrams_are_inspected_within_their_budget() {
    run(targets::datagram, &corpus::datagrams(), 40_000);
}

#[test]
fn lines_of_others_are_taken_or_refused() {
    run(targets::eve, &corpus::eve_files(), 40_000);
}

#[test]
fn entries_off_the_wire_are_taken_or_refused() {
    run(targets::entry, &corpus::entries(), 20_000);
}
