//! How commands show what they found.

use std::io::{self, Write};

use clap::ValueEnum;
use gnomon_flow::escape::terminal_safe;

use crate::store::Report;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// Writes the report to standard output.
///
/// # Errors
/// When that cannot be written to.
pub fn show(report: &Report, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => words(report),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn words(report: &Report) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        let at = damage.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let file = damage.file.display().to_string();
        text.push_str(&format!("{}{at}: {}\n", terminal_safe(&file), terminal_safe(&damage.problem)));
    }
    let unnamed = report.damaged.saturating_sub(report.damage.len() as u64);
    if unnamed > 0 {
        text.push_str(&format!("… and {unnamed} more\n"));
    }
    text.push_str(&format!(
        "packets: {} in {} frames of {} files, {} bytes\nflows:   {} in {} blocks of {} columns, {} batches and records waiting\n",
        report.packets,
        report.frames,
        report.files,
        report.frame_bytes,
        report.records,
        report.blocks,
        report.columns,
        report.recent
    ));
    text.push_str(&match report.damaged {
        0 => "all of it is as it was written\n".to_owned(),
        damaged => format!("damaged: {damaged}\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Damage;

    #[test]
    fn damage_is_named_and_cannot_drive_the_terminal() {
        let damage =
            Damage { file: "a\x1b[2J.seg".into(), offset: Some(64), problem: "it is damaged".to_owned() };
        let report = Report { damaged: 3, damage: vec![damage], ..Report::default() };
        let text = words(&report);
        assert!(text.starts_with("a\\u{1b}[2J.seg at byte 64: it is damaged\n… and 2 more\n"), "{text}");
        assert!(text.ends_with("damaged: 3\n"));
        assert!(words(&Report::default()).ends_with("as it was written\n"));
    }
}
