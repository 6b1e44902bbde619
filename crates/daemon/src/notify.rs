//! What the service manager is told (systemd `Type=notify`, sd_notify(3)): ready, status, alive, stopping.
//!
//! Without `NOTIFY_SOCKET` all of it does nothing, so that a daemon says the same in a container or a terminal.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::shutdown::CancellationToken;
use gnomon_flow::escape::terminal_safe;

/// The service can be used; `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&terminal_safe(status))]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(&terminal_safe(status))]);
}

/// The service is on its way down.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&terminal_safe(status))]);
}

/// Tells the service manager twice in each of its periods (`WatchdogSec=`) that the daemon is alive, until `stop`.
///
/// `alive` says whether the daemon does its work, not whether this task runs: once it is false nothing is sent, and the
/// service manager restarts the daemon. Returns at once where no watchdog is asked for.
pub async fn watchdog(mut alive: impl FnMut() -> bool, stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else {
        return;
    };
    let mut ticks = tokio::time::interval(period / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_alive = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let is_alive = alive();
        if is_alive {
            send(&[NotifyState::Watchdog]);
        } else if was_alive {
            tracing::error!(?period, "the daemon makes no progress: the service manager will restart it");
        }
        was_alive = is_alive;
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager; check NOTIFY_SOCKET and NotifyAccess=");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Not a test of its own: the service that the test below is the manager of. (The environment of a running
    /// process cannot be changed safely, so it takes a second one.)
    #[test]
    #[ignore = "a process that other tests start"]
    fn child_process() {
        if std::env::var_os("GNOMON_TEST_NOTIFY_CHILD").is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        ready("serving\nREADY=forged");
        runtime.block_on(async {
            let beats = AtomicU32::new(0);
            let stop = CancellationToken::new();
            let alive = || beats.fetch_add(1, Ordering::Relaxed) < 3;
            let watchdog = watchdog(alive, stop.clone());
            let limit = tokio::time::sleep(Duration::from_millis(400));
            tokio::select! { () = watchdog => {}, () = limit => stop.cancel() }
        });
        stopping("flushing");
    }

    #[test]
    fn the_manager_hears_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let child = |watchdog: bool| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "notify::tests::child_process", "--ignored"]);
            command.env("GNOMON_TEST_NOTIFY_CHILD", "1").env("NOTIFY_SOCKET", &path);
            command.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
            if watchdog {
                command.env("WATCHDOG_USEC", "40000");
            }
            let mut process = command.stdout(Stdio::null()).spawn().unwrap();
            // Read while it runs: a datagram socket holds few messages (net.unix.max_dgram_qlen), then senders wait.
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut heard = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let ended = process.try_wait().unwrap();
                while let Ok(length) = socket.recv(&mut buffer) {
                    heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
                }
                if let Some(status) = ended {
                    assert!(status.success());
                    break;
                }
            }
            heard
        };
        let ready = "READY=1\nSTATUS=serving\\nREADY=forged\n";
        let stopping = "STOPPING=1\nSTATUS=flushing\n";
        let beat = "WATCHDOG=1\n";
        // Three beats, then the daemon is stuck and nothing more may be said for it.
        assert_eq!(child(true), [ready, beat, beat, beat, stopping]);
        assert_eq!(child(false), [ready, stopping]);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            println!("SKIPPED: this process has a service manager of its own");
            return;
        }
        ready("x");
        status("x");
        stopping("x");
    }
}
