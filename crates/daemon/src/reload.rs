//! SIGHUP: read the configuration again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal, taken over: without this it would end the process.
#[derive(Debug)]
pub struct Reload(Signal);

impl Reload {
    /// Takes over SIGHUP for the process. Called on a runtime with I/O, before the service is said to be ready.
    ///
    /// # Errors
    /// If the handler cannot be had.
    pub fn install() -> io::Result<Reload> {
        signal(SignalKind::hangup()).map(Reload)
    }

    /// Returns when somebody asks; several at once are one.
    pub async fn asked(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime ends: nobody will ask.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_hangup_is_told_and_does_not_end_the_process() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut reload = Reload::install().unwrap();
            for _ in 0..2 {
                kill_process(getpid(), Signal::HUP).unwrap();
                let asked = tokio::time::timeout(std::time::Duration::from_secs(10), reload.asked());
                asked.await.expect("the signal must be told");
            }
        });
    }
}
