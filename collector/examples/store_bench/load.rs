//! Putting records in: as fast as it goes, and then at a pace while questions are asked.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use gnomon_clock::{Fix, FixSource, RawNs};
use gnomon_collector::enrich::Enrichment;
use gnomon_collector::query::{Queries, Roller};
use gnomon_collector::store::{Body, Change, Content, Evidence, RecordBatch, Store, Writer};

use crate::traffic::{Dice, SENSORS, SPAN_NS, epoch, record};
use crate::{BATCH, Report, Watch, bytes_under, cpu, cpu_of_thread, resident_mib, searches};

/// Records a second that come in at a pace.
const PACE: u64 = 100_000;
/// What a record takes on disk while the store is made, about.
const BYTES_EACH: u64 = 75;
/// The database's log, and files that wait to be merged.
const BYTES_BESIDE: u64 = 1 << 30;

/// Says what `rows` records will take, and refuses where there is no room for it.
pub(crate) fn room_for(dir: &Path, rows: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let stat = rustix::fs::statvfs(dir)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let wanted = (rows * BYTES_EACH + BYTES_BESIDE).saturating_sub(bytes_under(dir));
    println!("{rows} records: about {} MiB of disk, {} MiB are free", wanted >> 20, free >> 20);
    anyhow::ensure!(free >= wanted, "not enough room in {}", dir.display());
    Ok(())
}

/// Records on their way.
struct Payload {
    sensor: u8,
    records: u64,
    bytes: Bytes,
}

/// Makes them, the same each time.
struct Payloads {
    rows: u64,
    made: u64,
    dice: Dice,
}

impl Iterator for Payloads {
    type Item = Payload;

    fn next(&mut self) -> Option<Payload> {
        let (from, to) = (self.made, (self.made + BATCH).min(self.rows));
        if from == to {
            return None;
        }
        let records: Vec<_> = (from..to).map(|n| record(n, self.rows, &mut self.dice)).collect();
        self.made = to;
        let sensor = self.dice.below(u64::from(SENSORS)) as u8;
        Some(Payload { sensor, records: to - from, bytes: RecordBatch::payload("eth0", &records) })
    }
}

/// What a store gets.
pub(crate) struct Load<'l> {
    /// Records that it has.
    pub(crate) from: u64,
    pub(crate) rows: u64,
    /// Seconds of the end at a pace.
    pub(crate) paced_s: u64,
    pub(crate) dir: &'l Path,
}

/// Seconds that taking in took, part by part.
#[derive(Default)]
struct Taken {
    decode: f64,
    commit: f64,
    slowest: Duration,
    seqs: [u64; SENSORS as usize],
}

impl Load<'_> {
    pub(crate) fn run(
        &self,
        mut writer: Writer,
        store: &Store,
        queries: &Queries,
        report: &mut Report,
    ) -> anyhow::Result<Writer> {
        let rows = self.rows;
        let paced = (self.paced_s * PACE).min(rows / 2);
        let mut payloads = Payloads { rows, made: self.from, dice: Dice(1 + self.from) };
        let mut taken = Taken::default();
        if self.from == 0 {
            tell_time(&mut writer, store)?;
        } else {
            for sensor in 0..SENSORS {
                let durable = store.durable(gnomon_flow::AgentId(epoch(sensor).agent))?;
                taken.seqs[usize::from(sensor)] = durable.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
            }
        }
        let (mut n, mut making_s, mut wall) = (self.from, 0.0, Duration::ZERO);
        let cpu_before = cpu();
        let begun = Watch::start();
        while n < rows - paced {
            // A run of them is made before it is taken in: what making costs is not counted.
            let before = cpu_of_thread();
            let run: Vec<Payload> = payloads.by_ref().take(16).collect();
            making_s += cpu_of_thread() - before;
            let watch = Watch::start();
            for payload in run {
                n += payload.records;
                taken.take(&mut writer, payload)?;
            }
            writer.finish_blocks()?;
            wall += watch.elapsed();
            if n % 1_000_000 < 16 * BATCH {
                let left = begun.elapsed().as_secs_f64() * (rows - n) as f64 / (n - self.from) as f64;
                eprintln!(
                    "{n} of {rows} records, {:.0} k/s, {} MiB resident, {} MiB on disk, {left:.0} s to go",
                    (n - self.from) as f64 / wall.as_secs_f64() / 1e3,
                    resident_mib(),
                    bytes_under(self.dir) >> 20,
                );
            }
        }
        if n > self.from {
            // What the database does behind all that is counted too.
            taken.tell(n - self.from, cpu() - cpu_before - making_s, wall, report)?;
        }
        if paced > 0 {
            roll_up(store, n, report)?;
            self.at_a_pace(&mut writer, store, queries, payloads, &mut taken, report)?;
        }
        Ok(writer)
    }

    /// The rest at a pace, while searches are asked one after the other and blocks are rolled up.
    fn at_a_pace(
        &self,
        writer: &mut Writer,
        store: &Store,
        queries: &Queries,
        payloads: Payloads,
        taken: &mut Taken,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        // Made before: sensors are elsewhere.
        let mut made = Made::of(payloads)?;
        let over = AtomicBool::new(false);
        let over = &over;
        let searches = searches(store);
        let searches = &searches;
        let watch = Watch::start();
        let (mut n, mut slowest, mut resident, mut took) = (0u64, Duration::ZERO, 0, Duration::ZERO);
        let mut times = std::thread::scope(|scope| -> anyhow::Result<Vec<f64>> {
            let asking = scope.spawn(move || -> anyhow::Result<Vec<f64>> {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                let mut times = Vec::new();
                for (_, search) in searches.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let watch = Watch::start();
                    runtime.block_on(queries.search(search.clone()))?;
                    times.push(watch.elapsed().as_secs_f64() * 1e3);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(times)
            });
            let rolling = scope.spawn(move || -> anyhow::Result<()> {
                let mut roller = Roller::new(store.clone());
                while !over.load(Ordering::Relaxed) {
                    roller.round()?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            });
            // Decoded by a thread of their own, as the collector decodes on the threads that receive, when they are due.
            let (sender, receiver) = sync_channel(64);
            scope.spawn(move || -> anyhow::Result<()> {
                let mut n = 0;
                while let Some(payload) = made.next()? {
                    let due = Duration::from_nanos(n * (1_000_000_000 / PACE));
                    n += payload.records;
                    let batch = payload.decode()?;
                    std::thread::sleep(due.saturating_sub(watch.elapsed()));
                    if sender.send((payload, batch)).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            let taking = (|| -> anyhow::Result<()> {
                // What has come in meanwhile is the next group, as in the collector.
                while let Ok(first) = receiver.recv() {
                    let group: Vec<_> = std::iter::once(first).chain(receiver.try_iter().take(63)).collect();
                    let before = n;
                    n += group.iter().map(|(payload, _)| payload.records).sum::<u64>();
                    let committing = Watch::start();
                    taken.commit(writer, group)?;
                    slowest = slowest.max(committing.elapsed());
                    if n / PACE > before / PACE {
                        resident = resident.max(resident_mib());
                    }
                }
                Ok(())
            })();
            // Before the others are waited for.
            took = watch.elapsed();
            over.store(true, Ordering::Relaxed);
            let fault = |_| anyhow::anyhow!("a thread of the bench panicked");
            rolling.join().map_err(fault)??;
            taking?;
            asking.join().map_err(fault)?
        })?;
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        let rate = n as f64 / took.as_secs_f64();
        println!(
            "at a pace: {rate:.0} records/s of {PACE}, slowest group {slowest:?}; {} searches meanwhile: p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms; {resident} MiB resident",
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0),
        );
        report.figure("taken in at a pace", "records/s", rate)?;
        report.figure("searches meanwhile, p50", "ms", at(0.5))?;
        report.figure("searches meanwhile, p99", "ms", at(0.99))?;
        report.figure("memory meanwhile", "MiB", resident as f64)
    }
}

/// Records that were made before, in a file.
struct Made(BufReader<File>);

impl Made {
    fn of(payloads: Payloads) -> anyhow::Result<Made> {
        let mut file = BufWriter::new(tempfile::tempfile()?);
        for Payload { sensor, records, bytes } in payloads {
            let head = [u64::from(sensor), records, bytes.len() as u64];
            head.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))?;
            file.write_all(&bytes)?;
        }
        let mut file = file.into_inner()?;
        file.rewind()?;
        Ok(Made(BufReader::new(file)))
    }

    fn next(&mut self) -> anyhow::Result<Option<Payload>> {
        if self.0.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut number = || -> std::io::Result<u64> {
            let mut bytes = [0; 8];
            self.0.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let (sensor, records, len) = (number()? as u8, number()?, number()?);
        let mut bytes = vec![0; len as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(Some(Payload { sensor, records, bytes: bytes.into() }))
    }
}

impl Payload {
    fn decode(&self) -> anyhow::Result<RecordBatch> {
        Ok(RecordBatch::read(&self.bytes, &Enrichment::default())?)
    }
}

impl Taken {
    fn take(&mut self, writer: &mut Writer, payload: Payload) -> anyhow::Result<()> {
        let begun = Watch::start();
        let batch = payload.decode()?;
        self.decode += begun.elapsed().as_secs_f64();
        self.commit(writer, vec![(payload, batch)])
    }

    fn commit(&mut self, writer: &mut Writer, group: Vec<(Payload, RecordBatch)>) -> anyhow::Result<()> {
        let committing = Watch::start();
        let changes: Vec<Change> =
            group.into_iter().map(|(payload, batch)| self.change(payload, batch)).collect();
        writer.commit(&changes)?;
        self.slowest = self.slowest.max(committing.elapsed());
        self.commit += committing.elapsed().as_secs_f64();
        while writer.settle()? {}
        Ok(())
    }

    fn change(&mut self, payload: Payload, batch: RecordBatch) -> Change {
        let Payload { sensor, bytes: payload, .. } = payload;
        let seq = &mut self.seqs[usize::from(sensor)];
        *seq += 1;
        let content = Content::Flows {
            interface: batch.interface.into(),
            records: batch.records,
            alerts: Vec::new(),
            payload,
        };
        let agent_name = format!("sensor-{sensor}").into();
        Change { epoch: epoch(sensor), agent_name, body: Body::Entry { seq: *seq, content } }
    }

    fn tell(&self, rows: u64, cpu_s: f64, wall: Duration, report: &mut Report) -> anyhow::Result<()> {
        println!(
            "ingest: {:.0} k records per CPU-second ({:.0} k without decoding), {:.0} k/s, slowest commit {:?}, {} MiB resident",
            rows as f64 / cpu_s / 1e3,
            rows as f64 / (cpu_s - self.decode) / 1e3,
            rows as f64 / wall.as_secs_f64() / 1e3,
            self.slowest,
            resident_mib()
        );
        let each_us = |seconds: f64| seconds / rows as f64 * 1e6;
        println!(
            "a record: {:.2} us to decode, {:.2} to commit; of CPU in all, {:.2}",
            each_us(self.decode),
            each_us(self.commit),
            each_us(cpu_s)
        );
        report.figure("ingest", "records a CPU-second", rows as f64 / cpu_s)?;
        report.figure(
            "ingest without decoding",
            "records a CPU-second",
            rows as f64 / (cpu_s - self.decode),
        )?;
        report.figure("memory while taking in", "MiB", resident_mib() as f64)
    }
}

/// What the sensors' clocks are worth: five days until now.
fn tell_time(writer: &mut Writer, store: &Store) -> anyhow::Result<()> {
    let begin = store.now().utc.saturating_add_ns(-(SPAN_NS.cast_signed()));
    let fix = |raw: u64| Fix {
        raw: RawNs(raw),
        utc: begin.saturating_add_ns(raw.cast_signed()),
        err_ns: 500_000,
        source: FixSource::Chrony,
    };
    for sensor in 0..SENSORS {
        let fixes = (0..=SPAN_NS / 1_800_000_000_000).map(|n| fix(n * 1_800_000_000_000)).collect();
        let body = Body::Evidence(Evidence { fixes, ..Evidence::default() });
        let agent_name: Arc<str> = format!("sensor-{sensor}").into();
        writer.commit(&[Change { epoch: epoch(sensor), agent_name, body }])?;
    }
    Ok(())
}

/// Makes the rollups that are missing.
pub(crate) fn roll_up(store: &Store, rows: u64, report: &mut Report) -> anyhow::Result<()> {
    let rolling = Watch::start();
    let before = cpu();
    let mut roller = Roller::new(store.clone());
    let mut rollups = 0;
    loop {
        match roller.round()? {
            0 => break,
            made => rollups += made,
        }
    }
    if rollups > 0 {
        println!(
            "{rollups} rollups: {:?}, {:.2} us of CPU and {:.1} bytes a record, not yet compressed",
            rolling.elapsed(),
            (cpu() - before) / rows as f64 * 1e6,
            roller.bytes() as f64 / rows as f64,
        );
    }
    if rollups > 0 {
        report.figure("rolling up", "bytes a record", roller.bytes() as f64 / rows as f64)?;
    }
    Ok(())
}
