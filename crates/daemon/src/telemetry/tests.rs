//! What a log line looks like, what Prometheus reads, and that a receiver which is not there costs nothing.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};

use opentelemetry::KeyValue;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Keeps what is written to it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Memory {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn logged(config: &TelemetryConfig, log: impl FnOnce()) -> String {
    let memory = Memory::default();
    let (_telemetry, subscriber) = start("gnomon-test", config, memory.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, log);
    memory.text()
}

#[test]
fn text_lines_obey_the_filter_and_cannot_drive_a_terminal() {
    let config = TelemetryConfig {
        log: "warn,gnomon_daemon=info".into(),
        log_format: LogFormat::Text,
        ..TelemetryConfig::default()
    };
    let text = logged(&config, || {
        tracing::info!(name = "a\x1b[2Jb", "hello");
        tracing::debug!("not this");
        tracing::info!(target: "other", "nor this");
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("hello") && text.contains("INFO") && !text.contains('\x1b'), "{text}");
}

#[test]
fn json_lines_are_json() {
    let config = TelemetryConfig { log_format: LogFormat::Json, ..TelemetryConfig::default() };
    let text = logged(&config, || tracing::warn!(dropped = 7, "queue \"full\""));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["level"], &line["dropped"]), (&"WARN".into(), &7.into()));
    assert_eq!(line["message"], "queue \"full\"");
}

#[test]
fn journald_lines_carry_their_priority() {
    let memory = Memory::default();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(memory.clone())
        .with_ansi(false)
        .event_format(format::Journald::new());
    tracing::subscriber::with_default(Registry::default().with(layer), || {
        tracing::error!("lost");
        tracing::info!("fine");
    });
    let text = memory.text();
    assert!(text.starts_with("<3>") && text.contains("\n<6>") && !text.contains("ERROR"), "{text}");
}

#[test]
fn prometheus_reads_the_metrics() {
    let (telemetry, _) = start("gnomon-test", &TelemetryConfig::default(), io::sink).unwrap();
    let counter =
        telemetry.meter("capture").u64_counter("gnomon.capture.dropped").with_unit("{packet}").build();
    counter.add(3, &[KeyValue::new("reason", "ring_full")]);
    counter.add(2, &[KeyValue::new("reason", "ring_full")]);
    let text = telemetry.prometheus_text().unwrap();
    assert!(text.contains("gnomon_capture_dropped_total{reason=\"ring_full\"} 5"), "{text}");
    assert!(text.contains("service_name=\"gnomon-test\""), "{text}");
}

#[test]
fn a_bad_config_is_refused_with_its_key() {
    let check = |change: fn(&mut TelemetryConfig)| {
        let mut config = TelemetryConfig::default();
        change(&mut config);
        config.validate("telemetry").map_err(|error| error.to_string())
    };
    assert_eq!(check(|_| {}), Ok(()));
    assert!(check(|c| c.log = "info,x=loud".into()).unwrap_err().starts_with("`telemetry.log`"));
    assert!(
        check(|c| c.otlp_endpoint = Some("localhost:4317".into()))
            .unwrap_err()
            .contains("http://127.0.0.1:4317")
    );
    let error = check(|c| c.otlp_interval = HumanDuration::from_millis(5)).unwrap_err();
    assert_eq!(error, "`telemetry.otlp_interval` is 5ms; allowed: 1s to 1h");
}

/// Runs a daemon's life with telemetry to `endpoint` on a thread of its own; true if it ended within `limit`.
fn lives_and_ends(endpoint: String, limit: Duration) -> bool {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let config = TelemetryConfig { otlp_endpoint: Some(endpoint), ..TelemetryConfig::default() };
        let (telemetry, subscriber) = start("gnomon-test", &config, io::sink).unwrap();
        let counter = telemetry.meter("test").u64_counter("gnomon.test").build();
        tracing::subscriber::with_default(subscriber, || {
            // Four times what the queues hold.
            for number in 0..8192_u32 {
                let _span = tracing::info_span!("work", number).entered();
                tracing::info!(number, "working");
                counter.add(1, &[]);
            }
        });
        assert!(telemetry.prometheus_text().unwrap().contains("gnomon_test_total"));
        telemetry.shutdown();
        done.send(()).unwrap();
    });
    wait.recv_timeout(limit).is_ok()
}

#[test]
fn a_receiver_that_is_not_there_blocks_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(lives_and_ends(format!("http://{free}"), FLUSH_MAX + Duration::from_secs(7)));
}

#[test]
fn a_receiver_that_never_answers_is_given_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    assert!(lives_and_ends(endpoint, FLUSH_MAX + Duration::from_secs(7)));
}
