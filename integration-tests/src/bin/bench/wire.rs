//! The wire under test: a generator's namespace, a receiver's, and a veth pair between them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::netns::Netns;

/// The generator's end.
pub(crate) const OUT: &str = "flood0";
/// The receiver's end.
pub(crate) const IN: &str = "tap0";
/// Cores: the generator with the kernel's side of the veth, and the receiver with all its threads.
pub(crate) const GENERATOR_CORE: usize = 0;
pub(crate) const RECEIVER_CORE: usize = 1;
const MTU: u32 = 1500;

/// Lengths of the frames sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// 64 bytes on a wire: 60 without the checksum, as Linux hands them over.
    Minimal,
    /// Seven of 60 bytes, four of 590, one of 1514.
    Imix,
}

impl Frames {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Frames::Minimal => "64 B",
            Frames::Imix => "IMIX",
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Frames::Minimal => "60",
            Frames::Imix => "imix",
        }
    }
}

/// What the generator says it sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) seconds: f64,
    /// Not taken by the veth: its ring was full.
    pub(crate) refused: u64,
}

impl Sent {
    pub(crate) fn per_second(&self) -> f64 {
        self.frames as f64 / self.seconds
    }

    /// From `sent N frames, N bytes in S s: N frames/s; IFACE accepted N, refused N`.
    fn parse(line: &str) -> Option<Sent> {
        let words: Vec<&str> =
            line.split_whitespace().map(|word| word.trim_end_matches([',', ';', ':'])).collect();
        let after = |label: &str| words.get(words.iter().position(|word| *word == label)? + 1).copied();
        Some(Sent {
            frames: after("sent")?.parse().ok()?,
            seconds: after("in")?.parse().ok()?,
            refused: after("refused")?.parse().ok()?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) generator: Netns,
    pub(crate) receiver: Netns,
    flood: PathBuf,
}

impl Wire {
    pub(crate) fn build(bin_dir: &Path) -> Result<Wire> {
        let (generator, receiver) = (Netns::new("flood")?, Netns::new("tap")?);
        generator.veth(OUT, &receiver, IN, MTU)?;
        // Frames are handed to the receiver's NAPI, which a veth has only with an XDP program or with this.
        receiver.run("ethtool", &["-K", IN, "gro", "on"])?;
        Ok(Wire { generator, receiver, flood: bin_dir.join("examples/flood") })
    }

    pub(crate) fn flood_command(&self, frames: Frames, rate: u64, seconds: f64) -> std::process::Command {
        let mut command = self.generator.command(&self.flood);
        let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
        command.args([OUT, "--frame", frames.argument(), "--rate", &rate, "--seconds", &seconds.to_string()]);
        command.args(["--cpu", &GENERATOR_CORE.to_string()]);
        command
    }

    /// Send `rate` frames a second (0: as many as go) and wait until they are sent.
    pub(crate) fn flood(&self, frames: Frames, rate: u64, seconds: f64) -> Result<Sent> {
        let output = self.flood_command(frames, rate, seconds).output().context("run the generator")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "the generator {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Sent::parse(&said).with_context(|| format!("the generator said {said:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_generator_says_is_understood() {
        let line = "sent 12 frames, 720 bytes in 0.5000 s: 24 frames/s; flood0 accepted 11, refused 1\n";
        let sent = Sent::parse(line).unwrap();
        assert_eq!((sent.frames, sent.seconds, sent.refused), (12, 0.5, 1));
        assert!((sent.per_second() - 24.0).abs() < 1e-9);
        assert!(Sent::parse("sent nothing").is_none());
    }
}
