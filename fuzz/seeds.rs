//! Writes the corpus that the targets begin with: a directory a target, under the one that is named.

#[path = "../agent/tests/hostile/corpus.rs"]
mod corpus;
#[allow(dead_code, reason = "of the targets only what their inputs look like")]
#[path = "../agent/tests/hostile/targets.rs"]
mod targets;

use std::path::Path;

/// A target, and the input it begins with.
type Seeds = (&'static str, fn() -> Vec<Vec<u8>>);

const TARGETS: [Seeds; 8] = [
    ("decode", corpus::frames),
    ("sequence", corpus::sequences),
    ("capture_file", corpus::capture_files),
    ("stream", corpus::streams),
    ("datagram", corpus::datagrams),
    ("entry", corpus::entries),
    ("eve", corpus::eve_files),
    ("expression", expressions),
];

/// Some of each kind of value.
fn expressions() -> Vec<Vec<u8>> {
    [
        "ip.src == 10.0.0.0/8 && port.dst == [22, 443] && packets >= 3",
        "ip == 1::2.80 || !(port == 3-7)",
        "dns.host == EXISTS! && http.host == *.example.org && http.uri != /a.(b|c)+/",
        "starttime >= now-1d@d && tags == ]a,b[ && ip.protocol == tcp",
        r#"http.useragent == "quoted \"text\"" && time.state == indexed"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

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
