//! Logs to standard error, metrics for Prometheus, and all three signals to an OTLP receiver if one is named.
//!
//! Telemetry is never worth a packet: every queue to the receiver is bounded and drops when full, exports run on
//! threads of their own, and a receiver that is not there costs log lines but no blocking.

mod format;
mod one_line;
mod otlp;
mod sockets;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::build_info;
use crate::config::{ConfigError, HumanDuration, in_range};
use crate::connector::SocketEvents;
use sockets::Sockets;

/// How long a daemon that stops waits for its last telemetry to leave.
pub const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Logs, metrics and traces of the daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Which log lines to write: a level (error, warn, info, debug, trace), or levels by module, as in
    /// `info,gnomon_agent::spool=debug`.
    pub log: String,
    /// The form of the log lines on standard error.
    pub log_format: LogFormat,
    /// The gRPC address of an OpenTelemetry receiver, as in `http://127.0.0.1:4317`. Metrics, traces and logs are sent
    /// there as well. If it does not answer they are dropped: nothing waits for it.
    #[schemars(example = "http://127.0.0.1:4317")]
    pub otlp_endpoint: Option<String>,
    /// How often metrics are sent to `otlp_endpoint`. Allowed: 1s to 1h.
    pub otlp_interval: HumanDuration,
    /// The certificates (PEM) that the receiver's certificate must descend from, for an `https://` endpoint. If unset,
    /// the certificates that the system trusts.
    #[schemars(example = "/etc/ssl/certs/ca-certificates.crt")]
    pub otlp_ca: Option<PathBuf>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text: in colour on a terminal, with journald's priorities and no time of its own under journald.
    #[default]
    Auto,
    /// Plain text with the time.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            // The SDK tells of its own start at info.
            log: "info,opentelemetry=warn".to_owned(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
            otlp_interval: HumanDuration::from_secs(10),
            otlp_ca: None,
        }
    }
}

impl TelemetryConfig {
    /// For the `validate` of the config that holds this under the key `section`.
    ///
    /// # Errors
    /// A filter that does not parse, an endpoint that is no URL, an interval out of range.
    pub fn validate(&self, section: &str) -> Result<(), ConfigError> {
        let interval = HumanDuration::from_secs(1)..=HumanDuration::from_secs(3600);
        in_range(&format!("{section}.otlp_interval"), &self.otlp_interval, &interval)?;
        EnvFilter::try_new(&self.log).map_err(|error| {
            let message = format!(
                "{:?} is no log filter: {error}; write it like \"info,gnomon_agent=debug\"",
                self.log
            );
            ConfigError::invalid(&format!("{section}.log"), message)
        })?;
        if let Some(endpoint) = &self.otlp_endpoint {
            otlp::check_endpoint(endpoint)
                .map_err(|message| ConfigError::invalid(&format!("{section}.otlp_endpoint"), message))?;
        }
        Ok(())
    }
}

/// Why telemetry could not be started. That a receiver does not answer is not a reason.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    #[error("log filter {filter:?} does not parse")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("cannot set up the metrics registry: {message}")]
    Metrics { message: String },
    #[error("cannot set up the OTLP exporter to {endpoint}: {message}")]
    Otlp { endpoint: String, message: String },
    #[error("cannot read the OTLP receiver's CA certificates {path}", path = path.display())]
    Certificates { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that exports telemetry")]
    Thread { source: io::Error },
    #[error("telemetry was already started in this process")]
    Twice,
}

/// The running telemetry. Dropping it flushes, for at most [`FLUSH_MAX`]; so does [`Telemetry::shutdown`].
pub struct Telemetry {
    meters: SdkMeterProvider,
    registry: prometheus::Registry,
    otlp: Option<otlp::Otlp>,
    sockets: Sockets,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("otlp", &self.otlp.is_some()).finish_non_exhaustive()
    }
}

/// Starts telemetry for the whole process: the log subscriber and the global meter provider.
///
/// # Errors
/// See [`TelemetryError`]; a second call is one.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let (telemetry, subscriber) = start(service, config, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    opentelemetry::global::set_meter_provider(telemetry.meters.clone());
    Ok(telemetry)
}

fn start<W>(
    service: &'static str,
    config: &TelemetryConfig,
    writer: W,
) -> Result<(Telemetry, impl Subscriber + Send + Sync), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = || {
        EnvFilter::try_new(&config.log)
            .map_err(|source| TelemetryError::Filter { filter: config.log.clone(), source })
    };
    let resource = resource(service);
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| TelemetryError::Metrics { message: error.to_string() })?;
    let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(exporter);

    let mut layers = vec![format::layer(config.log_format, writer).with_filter(filter()?).boxed()];
    let mut otlp = None;
    let sockets = Sockets::default();
    if let Some(endpoint) = &config.otlp_endpoint {
        let (running, reader) = otlp::Otlp::start(endpoint, config, resource, &sockets)?;
        layers.push(running.trace_layer(service, filter()?));
        layers.push(running.log_layer(filter()?));
        meters = meters.with_reader(reader);
        otlp = Some(running);
    }
    let telemetry = Telemetry { meters: meters.build(), registry, otlp, sockets };
    Ok((telemetry, Registry::default().with(layers)))
}

fn resource(service: &'static str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // `builder` also reads OTEL_RESOURCE_ATTRIBUTES, the way to name a site or a cluster.
    Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", build_info::VERSION))
        .with_attribute(KeyValue::new("host.name", host))
        .build()
}

impl Telemetry {
    /// A meter for the instruments of one stage. `opentelemetry::global::meter` gives the same after [`init`].
    #[must_use]
    pub fn meter(&self, name: &'static str) -> Meter {
        self.meters.meter_with_scope(InstrumentationScope::builder(name).build())
    }

    /// All metrics in Prometheus' text format 0.0.4 (`text/plain; version=0.0.4`).
    ///
    /// # Errors
    /// [`TelemetryError::Metrics`], if two instruments contradict each other.
    pub fn prometheus_text(&self) -> Result<String, TelemetryError> {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|error| TelemetryError::Metrics { message: error.to_string() })
    }

    /// A handle for the HTTP handler that serves [`Telemetry::prometheus_text`] while `main` keeps the telemetry.
    #[must_use]
    pub fn prometheus_registry(&self) -> prometheus::Registry {
        self.registry.clone()
    }

    /// Tells `events` of the sockets to the receiver, those that are open already among them.
    pub fn watch_sockets(&self, events: Arc<dyn SocketEvents>) {
        self.sockets.watch(events);
    }

    /// Sends what is left to the receiver, for at most [`FLUSH_MAX`]. Blocks: call it as the last thing in `main`.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(otlp) = self.otlp.take() {
            otlp.flush(self.meters.clone());
        }
    }
}

#[cfg(test)]
mod tests;
