//! SIGINT and SIGTERM: the first asks, the second ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

use crate::exit;

/// The handle that every stage watches. Clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    signal: Arc<AtomicI32>,
}

impl Shutdown {
    /// Takes over SIGINT and SIGTERM for the process. The first cancels the token; the second ends the process at
    /// once with 130 or 143, whatever it is doing.
    ///
    /// The signals are served by a thread with a runtime of its own: a daemon whose workers are all stuck is the one
    /// that somebody presses Ctrl-C twice for.
    ///
    /// # Errors
    /// If the thread or the handlers cannot be had.
    pub fn install() -> io::Result<Self> {
        let shutdown = Self::default();
        let served = shutdown.clone();
        let (ready, wait) = std::sync::mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
                Ok(runtime) => runtime,
                Err(error) => return ready.send(Err(error)).unwrap_or_default(),
            };
            runtime.block_on(async {
                let handlers = signal(SignalKind::interrupt())
                    .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
                let (mut interrupt, mut terminate) = match handlers {
                    Ok(handlers) => handlers,
                    Err(error) => return ready.send(Err(error)).unwrap_or_default(),
                };
                ready.send(Ok(())).unwrap_or_default();
                let mut asked = false;
                loop {
                    let (kind, code) = tokio::select! {
                        Some(()) = interrupt.recv() => (SignalKind::interrupt(), exit::INTERRUPTED),
                        Some(()) = terminate.recv() => (SignalKind::terminate(), exit::TERMINATED),
                        else => return,
                    };
                    if asked {
                        std::process::exit(i32::from(code));
                    }
                    asked = true;
                    served.signal.store(kind.as_raw_value(), Ordering::Relaxed);
                    tracing::info!(signal = kind.as_raw_value(), "stopping; a second signal ends at once");
                    served.token.cancel();
                }
            });
        })?;
        wait.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread died at its start")))?;
        Ok(shutdown)
    }

    /// Asks everybody to stop, as a signal would: a stage failed, or a test is over.
    pub fn begin(&self) {
        self.token.cancel();
    }

    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once it is time to stop.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// For stages that take a token, or want children of it.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// The number of the signal that asked, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    /// Not a test of its own: the process that the tests below send signals to.
    #[test]
    #[ignore = "a process that other tests start"]
    fn child_process() {
        if std::env::var_os("GNOMON_TEST_SHUTDOWN_CHILD").is_none() {
            return;
        }
        let shutdown = Shutdown::install().unwrap();
        eprintln!("child: ready");
        while !shutdown.is_begun() {
            thread::sleep(std::time::Duration::from_millis(5));
        }
        eprintln!("child: begun by {}", shutdown.signal().unwrap());
        // Stuck in something that does not watch the token.
        thread::sleep(std::time::Duration::from_secs(60));
    }

    fn spawn() -> (Child, impl FnMut(&str)) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child_process", "--ignored", "--nocapture"])
            .env("GNOMON_TEST_SHUTDOWN_CHILD", "1")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        (child, move |wanted: &str| {
            assert!(lines.any(|line| line.unwrap().contains(wanted)), "no {wanted:?}")
        })
    }

    fn two_signals(first: Signal, second: Signal) -> Option<i32> {
        let (mut child, mut expect) = spawn();
        let pid = Pid::from_child(&child);
        expect("child: ready");
        kill_process(pid, first).unwrap();
        expect(&format!("child: begun by {}", first.as_raw()));
        assert!(child.try_wait().unwrap().is_none(), "the first signal must not end it");
        kill_process(pid, second).unwrap();
        child.wait().unwrap().code()
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        assert_eq!(two_signals(Signal::INT, Signal::INT), Some(130));
        assert_eq!(two_signals(Signal::INT, Signal::TERM), Some(143));
    }

    #[test]
    fn a_stage_can_begin_it_without_a_signal() {
        let shutdown = Shutdown::default();
        let other = shutdown.clone();
        assert!(!other.is_begun());
        shutdown.begin();
        assert!(other.is_begun() && other.token().is_cancelled());
        assert_eq!(other.signal(), None);
    }
}
