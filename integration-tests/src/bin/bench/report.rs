//! Plain tables, printed as they are made and kept for the documentation.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, KernelClock};

/// A Markdown table that can be read as it stands.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: &str, head: &[&str]) -> Table {
        Table { title: title.to_owned(), rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(2)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("**{}**\n\n", self.title);
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                let (left, right) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
                let _ = write!(text, "| {left}{cell}{right} ");
            }
            text.push_str("|\n");
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(width - 1);
                    let cell = if column == 0 { format!("{line}-") } else { format!("{line}:") };
                    let _ = write!(text, "| {cell} ");
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    /// Of the target in the Makefile: the markers between which it is kept.
    target: &'static str,
    text: String,
    began: CpuTime,
}

/// Ticks of all cores since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTime {
    all: u64,
    /// Taken by the host of this virtual machine for others.
    stolen: u64,
}

impl CpuTime {
    fn read() -> Result<CpuTime> {
        let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        CpuTime::parse(&text).with_context(|| format!("/proc/stat begins with {:?}", text.lines().next()))
    }

    /// From `cpu user nice system idle iowait irq softirq steal …` (proc(5)); guests are in user already.
    fn parse(text: &str) -> Option<CpuTime> {
        let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).take(8).collect();
        Some(CpuTime { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }
}

impl Report {
    /// Begins with what the machine is, and how busy it was with other things.
    pub(crate) fn new(target: &'static str) -> Result<Report> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let model =
            cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, m)| m);
        let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let kernel = read("/proc/sys/kernel/osrelease")?;
        let load = read("/proc/loadavg")?;
        let load = load.split_whitespace().next().unwrap_or("?").to_owned();
        let now_ns = KernelClock.bracket().realtime.unix_ns();
        let today = jiff::Timestamp::from_nanosecond(now_ns.into())?.strftime("%Y-%m-%d");
        let mut report = Report { target, text: String::new(), began: CpuTime::read()? };
        report.say(&format!(
            "{today} on {cores} shared cores ({}), a virtual machine, kernel {}; load average before the run {load}.\n",
            model.unwrap_or("unknown"),
            kernel.trim().split('-').next().unwrap_or(""),
        ));
        Ok(report)
    }

    /// How much of the machine the run did not have.
    pub(crate) fn say_what_was_stolen(&mut self) -> Result<()> {
        let now = CpuTime::read()?;
        let all = now.all.saturating_sub(self.began.all).max(1);
        let share = now.stolen.saturating_sub(self.began.stolen) as f64 * 100.0 / all as f64;
        self.say(&format!(
            "The host took {share:.1} % of the cores' time for others during the run (steal).\n"
        ));
        Ok(())
    }

    pub(crate) fn say(&mut self, text: &str) {
        println!("{text}");
        self.text.push_str(text);
        self.text.push('\n');
    }

    pub(crate) fn add(&mut self, table: &Table) {
        self.say(&table.text());
    }

    fn markers(&self) -> [String; 2] {
        let target = self.target;
        [
            format!("<!-- {target}: begin (written by `WRITE=1 make {target}`) -->"),
            format!("<!-- {target}: end -->"),
        ]
    }

    /// # Errors
    /// When the file cannot be read and written, or has no markers.
    pub(crate) fn write_between_markers(&self, path: &Path) -> Result<()> {
        let old = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let [begin, end] = self.markers();
        let missing = || format!("{} has no markers {begin:?} and {end:?}", path.display());
        let (before, rest) = old.split_once(&begin).with_context(missing)?;
        let (_, after) = rest.split_once(&end).with_context(missing)?;
        let new = format!("{before}{begin}\n\n{}\n{end}{after}", self.text.trim_end());
        std::fs::write(path, new).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_number() {
        let text = "cpu  10 1 5 80 2 0 1 7 9 9\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(CpuTime::parse(text), Some(CpuTime { all: 106, stolen: 7 }));
        assert_eq!(CpuTime::parse("cpu  10 1"), None);
    }

    #[test]
    fn a_table_is_aligned_and_goes_between_the_markers() {
        let mut table = Table::new("T", &["name", "n"]);
        table.row(vec!["ab".into(), "12".into()]);
        assert_eq!(table.text(), "**T**\n\n| name |  n |\n| ---- | -: |\n| ab   | 12 |\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = Report { target: "bench", text: "new\n".into(), began: CpuTime::default() };
        let [begin, end] = report.markers();
        std::fs::write(file.path(), format!("a\n{begin}\nold\n{end}\nb\n")).unwrap();
        report.write_between_markers(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, format!("a\n{begin}\n\nnew\n{end}\nb\n"));
        std::fs::write(file.path(), "no markers").unwrap();
        assert!(report.write_between_markers(file.path()).is_err());
    }
}
