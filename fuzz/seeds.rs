//! Writes the corpus that the targets begin with: a directory a target, under the one that is named.

#[path = "../agent/tests/hostile/corpus.rs"]
mod corpus;
#[allow(dead_code, reason = "of the targets only what their inputs look like")]
#[path = "../agent/tests/hostile/targets.rs"]
mod targets;

use std::path::Path;

/// A target, and the input it begins with.
type Seeds = (&'static str, fn() -> Vec<Vec<u8>>);

const TARGETS: [Seeds; 7] = [
    ("decode", corpus::frames),
    ("sequence", corpus::sequences),
    ("capture_file", corpus::capture_files),
    ("stream", corpus::streams),
    ("datagram", corpus::datagrams),
    ("entry", corpus::entries),
    ("eve", corpus::eve_files),
];

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| "corpus".to_owned());
    for (target, seeds) in TARGETS {
        let directory = Path::new(&root).join(target);
        std::fs::create_dir_all(&directory)?;
        for (n, seed) in seeds().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}
