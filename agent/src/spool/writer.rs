//! The writer thread: takes what workers hand over, encodes it and appends it.

use std::io;
use std::sync::mpsc::Receiver;

use super::appender::Appender;
use super::encode::{self, Encoder};
use crate::export::{AlertBatch, Export, Exported};

pub struct Writer {
    appender: Appender,
    encoder: Encoder,
}

impl Writer {
    /// # Errors
    /// When zstd refuses the level.
    pub fn new(appender: Appender, zstd_level: i32) -> io::Result<Writer> {
        Ok(Writer { appender, encoder: Encoder::new(zstd_level)? })
    }

    /// Runs until every worker is gone; `done` gets each hand-over back, for its buffers.
    pub fn run(mut self, exports: &Receiver<Export>, mut done: impl FnMut(Export)) {
        while let Ok(export) = exports.recv() {
            self.store(&export);
            done(export);
        }
    }

    /// Encodes and appends one hand-over.
    pub fn store(&mut self, export: &Export) {
        let Writer { appender, encoder } = self;
        // One entry holds a batch of alerts.
        let mut done = match &export.body {
            Exported::Alerts(AlertBatch { stored, .. }) => Some(stored.clone()),
            Exported::Flows(_) | Exported::Packets(_) => None,
        };
        let encoded = encoder.encode(&export.interface, &export.body, &mut |payload| {
            appender.put(payload.lane, &export.epoch, payload.items, payload.bytes, done.take());
        });
        if let Err(error) = encoded {
            let (lane, items) = encode::items(&export.body);
            tracing::error!(interface = %export.interface, %error, items, "cannot encode {} for the spool", lane.name());
            appender.refuse(lane, &export.epoch, items);
            if let Some(done) = done {
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
        }
    }
}
