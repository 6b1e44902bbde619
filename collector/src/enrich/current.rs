//! The files in force, and SIGHUP: they are read again from where the configuration named them at the start. What is wrong
//! with one leaves all of before in force.

use std::sync::{Arc, PoisonError, RwLock};

use gnomon_daemon::config::ConfigError;
use gnomon_daemon::reload::Reload;

use super::Enrichment;
use crate::config::EnrichConfig;

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct CurrentEnrichment(Arc<RwLock<Arc<Enrichment>>>);

impl From<Enrichment> for CurrentEnrichment {
    fn from(enrichment: Enrichment) -> CurrentEnrichment {
        CurrentEnrichment(Arc::new(RwLock::new(Arc::new(enrichment))))
    }
}

impl CurrentEnrichment {
    /// What holds now. Whoever has it keeps it, whatever comes.
    pub fn get(&self) -> Arc<Enrichment> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again; those of before go when nobody uses them any longer. Blocking.
    ///
    /// # Errors
    /// As [`Enrichment::load`]: then nothing changes.
    pub fn reload(&self, config: &EnrichConfig) -> Result<(), ConfigError> {
        let enrichment = Arc::new(Enrichment::load(config)?);
        let before = {
            let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, enrichment)
        };
        // Outside the lock: it may be a gigabyte.
        drop(before);
        Ok(())
    }

    /// Serves the signal, for as long as the process runs.
    pub async fn follow(self, mut signal: Reload, config: EnrichConfig) {
        loop {
            signal.asked().await;
            let (current, named) = (self.clone(), config.clone());
            match tokio::task::spawn_blocking(move || current.reload(&named)).await {
                Ok(Ok(())) => tracing::info!("databases of addresses read again"),
                Ok(Err(error)) => {
                    tracing::error!(%error, "databases of addresses refused: those of before stay in force");
                }
                Err(error) => {
                    tracing::error!(%error, "reading databases of addresses panicked: those of before stay");
                }
            }
        }
    }
}
