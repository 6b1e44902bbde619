//! Export of metrics, traces and logs to an OTLP receiver over gRPC.
//!
//! Limits: the SDK's batch queues hold 2048 spans and 2048 log records and drop above that; one export takes at most
//! [`EXPORT_MAX`]. The runtime here serves the exports alone, so neither a busy daemon delays telemetry nor the reverse.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::{FLUSH_MAX, Sockets, TelemetryConfig, TelemetryError};
use crate::connector::connector;

/// A receiver that takes longer than this for one batch is treated as gone.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// The crates that an export itself runs through: what they log must not be exported, or each export causes the next.
const EXPORT_PATH: [&str; 7] = ["opentelemetry", "hyper", "tonic", "h2", "tower", "rustls", "tokio_util"];

/// Where the distributions keep the certificates that the system trusts.
const SYSTEM_CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

pub(super) struct Otlp {
    runtime: Runtime,
    tracers: SdkTracerProvider,
    loggers: SdkLoggerProvider,
}

/// `Ok` if `endpoint` is an address that can be dialled, else what is wrong with it.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match authority {
        Some(host) if !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Ok(())
        }
        _ => Err(format!("{endpoint:?} is no receiver address; write it like \"http://127.0.0.1:4317\"")),
    }
}

impl Otlp {
    pub(super) fn start(
        endpoint: &str,
        config: &TelemetryConfig,
        resource: Resource,
        sockets: &Sockets,
    ) -> Result<(Self, PeriodicReader<MetricExporter>), TelemetryError> {
        let fail = |message: String| TelemetryError::Otlp { endpoint: endpoint.to_owned(), message };
        check_endpoint(endpoint).map_err(fail)?;
        let mut channel =
            Endpoint::from_shared(endpoint.to_owned()).map_err(|error| fail(error.to_string()))?;
        channel = channel.timeout(EXPORT_MAX);
        if endpoint.starts_with("https://") {
            let tls = tls(config.otlp_ca.as_deref())?;
            channel = channel.tls_config(tls).map_err(|error| fail(error.to_string()))?;
        }
        let built = |error: ExporterBuildError| fail(error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()
            .map_err(|source| TelemetryError::Thread { source })?;
        // The exporters dial lazily, by tasks on the runtime that is entered here.
        let _entered = runtime.enter();
        macro_rules! exporter {
            ($builder:expr) => {{
                let channel = channel.connect_with_connector_lazy(connector(None, Arc::new(sockets.clone())));
                let builder = $builder.with_tonic().with_channel(channel).with_timeout(EXPORT_MAX);
                builder.build().map_err(built)?
            }};
        }
        let spans = exporter!(SpanExporter::builder());
        let records = exporter!(LogExporter::builder());
        let metrics = exporter!(MetricExporter::builder());
        let tracers =
            SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build();
        let loggers =
            SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(records).build();
        let reader = PeriodicReader::builder(metrics).with_interval(config.otlp_interval.get()).build();
        drop(_entered);
        Ok((Self { runtime, tracers, loggers }, reader))
    }

    pub(super) fn trace_layer(
        &self,
        service: &'static str,
        filter: EnvFilter,
    ) -> Box<dyn Layer<Registry> + Send + Sync> {
        let layer = tracing_opentelemetry::layer().with_tracer(self.tracers.tracer(service));
        layer.with_filter(filter.and(filter_fn(is_ours))).boxed()
    }

    pub(super) fn log_layer(&self, filter: EnvFilter) -> Box<dyn Layer<Registry> + Send + Sync> {
        OpenTelemetryTracingBridge::new(&self.loggers).with_filter(filter.and(filter_fn(is_ours))).boxed()
    }

    /// Sends what is queued, and gives up after [`FLUSH_MAX`] whatever the exporters do.
    pub(super) fn flush(self, meters: SdkMeterProvider) {
        let Self { runtime, tracers, loggers } = self;
        let (done, wait) = mpsc::channel();
        let flush = move || {
            let share = FLUSH_MAX / 3;
            // A failure was logged by the SDK, and nobody is left to act on it.
            let _ = loggers.shutdown_with_timeout(share);
            let _ = meters.shutdown_with_timeout(share);
            let _ = tracers.shutdown_with_timeout(share);
            let _ = done.send(());
        };
        if thread::Builder::new().name("telemetry-flush".to_owned()).spawn(flush).is_ok() {
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
        runtime.shutdown_background();
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    // `opentelemetry` stands for its whole family: opentelemetry_sdk, opentelemetry-otlp, …
    !EXPORT_PATH.contains(&root) && !root.starts_with("opentelemetry")
}

fn tls(asked: Option<&Path>) -> Result<ClientTlsConfig, TelemetryError> {
    let found = || SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists());
    let path = asked.or_else(found).unwrap_or(Path::new(SYSTEM_CERTIFICATES[0]));
    let pem = std::fs::read(path)
        .map_err(|source| TelemetryError::Certificates { path: path.to_owned(), source })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls() {
        for good in ["http://127.0.0.1:4317", "https://otel.example:4317/", "http://[::1]:4317"] {
            assert_eq!(check_endpoint(good), Ok(()));
        }
        for bad in ["", "127.0.0.1:4317", "http://", "ftp://x", "http:// x", "http:///x"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let error = tls(Some(Path::new("/none/ca.pem"))).err().unwrap().to_string();
        assert!(error.contains("/none/ca.pem"), "{error}");
    }
}
