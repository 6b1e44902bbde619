//! What every gnomon daemon does: configuration, telemetry, health, shutdown, build info.
