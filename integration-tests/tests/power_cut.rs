//! The power goes while a collector takes in, again and again: what it had acknowledged is there, nothing is there twice,
//! `verify` finds nothing damaged, and it goes on. `faults::Disk` says what is left of a directory then.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::faults::{Control, Dice, Disk, Faults, Journal, Loss, kind};
use gnomon_integration_tests::feeder::Feeder;
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};

/// About a second and a half each; GNOMON_POWER_CUTS=1000 for a long run.
const CUTS: u64 = 18;
/// Everything is read and compared so often.
const CUTS_PER_CHECK: u64 = 6;
/// A store that has grown makes each cut slower: a new one is begun.
const CUTS_PER_STORE: u64 = 18;
/// Of a thousand syncs, where some fail.
const SYNCS_FAILED: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

#[test]
fn what_was_acknowledged_outlives_power_cuts() -> Result<()> {
    cut_again_and_again(false)
}

/// What a failed sync left unwritten stays so, whatever a later one says: see `faults::Disk`.
#[test]
fn what_was_acknowledged_outlives_power_cuts_of_a_disk_whose_syncs_fail() -> Result<()> {
    cut_again_and_again(true)
}

fn cut_again_and_again(failing: bool) -> Result<()> {
    let cuts = number("GNOMON_POWER_CUTS").unwrap_or(CUTS);
    // Another one each day of the year would do; a run that failed says its own.
    let seed = number("GNOMON_SEED").unwrap_or_else(|| KernelClock.raw().0 % 1_000_000);
    let mut dice = Dice::new(seed);
    let mut done = 0;
    while done < cuts {
        let of_this = CUTS_PER_STORE.min(cuts - done);
        if !one_store(of_this, failing, &mut dice)
            .with_context(|| format!("GNOMON_SEED={seed}, behind cut {done}"))?
        {
            return Ok(());
        }
        done += of_this;
    }
    println!(
        "{cuts} power cuts, syncs that fail: {failing} (GNOMON_SEED={seed}): nothing acknowledged was lost"
    );
    Ok(())
}

/// False where it cannot be tested.
fn one_store(cuts: u64, failing: bool, dice: &mut Dice) -> Result<bool> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let Some(control) = Control::new(dir.path(), dice.below(1 << 32))? else { return Ok(false) };
    let home = dir.path().join("collector");
    let (data, journal_path) = (home.join("data"), dir.path().join("journal"));
    fs::create_dir_all(&data)?;
    // Small segment files, so that some are finished and sealed.
    let settings = ["retention.packets_max=64MiB", "retention.free_min=0B"];
    let environment = control.environment(&data, Some(&journal_path));
    let feeder = Feeder::new(1)?;
    let mut running: Option<Collector> = None;
    for cut in 0..cuts {
        let before = Disk::of(&data)?;
        // Syncs that take a while leave more behind them.
        control.set(Faults { sync_us: dice.below(4) * 500, ..Faults::NONE })?;
        let mut collector = match running.take() {
            Some(mut collector) => {
                collector.restart()?;
                collector
            }
            None => Collector::start_with(&bin_dir, &home, &settings, environment.clone())?,
        };
        let known = feeder.told().acknowledged;
        let mut session = feeder.feed(collector.grpc, Some(&journal_path));
        eventually("the collector has what it had", 20, || Ok(feeder.told().welcome), Option::is_some)?;
        let welcome = feeder.told().welcome.unwrap_or(0);
        ensure!(welcome >= known, "cut {cut}: {known} was acknowledged, the collector has {welcome}");
        if cut % CUTS_PER_CHECK == CUTS_PER_CHECK - 1 {
            // Not while more comes in, which only takes longer.
            drop(session);
            feeder.check(&collector, welcome).with_context(|| format!("cut {cut}"))?;
            session = feeder.feed(collector.grpc, Some(&journal_path));
        }
        if failing {
            let kinds =
                [kind::LOG, kind::SEGMENT, kind::TABLE | kind::MANIFEST, kind::ALL][dice.below(4) as usize];
            control.set(Faults { sync_permille: SYNCS_FAILED, kinds, ..Faults::NONE })?;
        }
        std::thread::sleep(Duration::from_millis(100 + dice.below(500)));
        let process = collector.process()?;
        ensure!(!process.has_ended()?, "cut {cut}: the collector ended by itself:\n{}", process.said());
        collector.kill()?;
        drop(session);
        let told = feeder.told();
        let journal = Journal::read(&journal_path)?;
        // At the last moment or at any, the start included.
        let events = if dice.coin() { journal.len() } else { dice.below(journal.len() as u64 + 1) as usize };
        let marks = told.marks.iter().filter(|(_, len)| journal.len_at(*len) <= events);
        let acknowledged = marks.map(|(seq, _)| *seq).chain([known]).max().unwrap_or(0);
        let (bytes, names) = (Loss::by(dice), Loss::by(dice));
        let mut disk = before;
        disk.replay(&journal, events, dice)?;
        fs::remove_dir_all(&data)?;
        fs::remove_file(&journal_path)?;
        disk.cut(&journal, bytes, names, dice, &data)?;
        feeder.forget_behind(acknowledged);
        let what = format!(
            "cut {cut} behind event {events} of {}, bytes {bytes:?}, names {names:?}, {acknowledged} acknowledged of {}",
            journal.len(),
            told.acknowledged
        );
        println!("{what}");
        let (code, said) = collector.verify()?;
        // Before the first entry there may be no store.
        ensure!(code == 0 || acknowledged == 0, "{what}: verify ended with {code}: {said}");
        running = Some(collector);
    }
    control.set(Faults::NONE)?;
    let mut collector = running.context("no cut")?;
    let known = feeder.told().acknowledged;
    collector.restart()?;
    let _session = feeder.feed(collector.grpc, None);
    eventually("it goes on", 20, || Ok(feeder.told().acknowledged), |now| *now > known + 20)?;
    drop(_session);
    feeder.check(&collector, feeder.told().acknowledged)?;
    ensure!(collector.stop()? == Some(0), "the collector stops cleanly");
    let (code, said) = collector.verify()?;
    ensure!(code == 0, "verify ended with {code}: {said}");
    println!("{} entries", feeder.told().acknowledged);
    Ok(true)
}
