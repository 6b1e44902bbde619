//! The collector's own certificate over time: read again on SIGHUP, and said before it ends.

use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::Clock;
use gnomon_daemon::certificate::Expiry;
use gnomon_daemon::reload::Reload;

use crate::tls::Tls;

/// Between two looks at when it ends.
const LOOK: Duration = Duration::from_secs(600);

/// Serves the signal, for as long as the process runs. What is wrong with a file leaves those of before in force.
pub async fn follow(tls: Tls, mut signal: Reload, clock: Arc<dyn Clock>) {
    let mut expiry = Expiry::default();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = signal.asked() => reload(&tls).await,
        }
        let now = clock.bracket().realtime.unix_ns() / 1_000_000_000;
        if let Some(text) = expiry.look(&tls.current().own, now) {
            tracing::warn!("tls.certificate: {text}");
        }
    }
}

async fn reload(tls: &Tls) {
    let read = {
        let tls = tls.clone();
        tokio::task::spawn_blocking(move || tls.reload()).await
    };
    match read {
        Ok(Ok(loaded)) => {
            let own = &loaded.own;
            tracing::info!(until = own.end(), "certificates read again: new connections see {own}");
        }
        Ok(Err(error)) => tracing::error!(%error, "certificates refused: those of before stay in force"),
        Err(error) => tracing::error!(%error, "reading certificates panicked: those of before stay"),
    }
}
