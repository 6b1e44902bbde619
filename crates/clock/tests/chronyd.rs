//! The client of the command socket against a real chronyd: two of them, one serving the other over loopback, both
//! with `-x`, so that no clock is touched. Needs root and chronyd (in PATH, /usr/sbin, or named by GNOMON_CHRONYD).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gnomon_clock::{
    ChronyAddress, ChronyClient, ChronyFixRejected, ChronyWord, Clock, FixSource, KernelClock, NtpDaemon,
    Sampler,
};

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn chronyd() -> Option<PathBuf> {
    let named = std::env::var_os("GNOMON_CHRONYD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    named.into_iter().chain(folders.map(|f| f.join("chronyd"))).find(|p| p.is_file())
}

fn start(program: &Path, folder: &Path, name: &str, config: &str) -> Daemon {
    let file = folder.join(format!("{name}.conf"));
    let common = format!(
        "pidfile {f}/{name}.pid\nbindcmdaddress {f}/{name}.sock\nbindcmdaddress 127.0.0.1\nuser root\n",
        f = folder.display()
    );
    fs::write(&file, format!("{config}\n{common}")).expect("the config can be written");
    let child = Command::new(program)
        .args(["-x", "-d", "-f"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("chronyd starts");
    Daemon(child)
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    socket.local_addr().expect("it is bound").port()
}

#[test]
fn a_real_chronyd_is_understood_over_both_sockets() {
    let Some(program) = chronyd() else {
        println!("SKIPPED: no chronyd (apt install chrony, or name it in GNOMON_CHRONYD)");
        return;
    };
    let folder = std::env::temp_dir().join(format!("gnomon-chronyd-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the test");
    // chronyd refuses a folder for its socket that others may enter.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let (ntp, command_a, command_b) = (free_port(), free_port(), free_port());
    let server =
        start(&program, &folder, "a", &format!("local stratum 4\nallow\nport {ntp}\ncmdport {command_a}"));
    let client = start(
        &program,
        &folder,
        "b",
        &format!("server 127.0.0.1 port {ntp} iburst minpoll 0 maxpoll 0\nport 0\ncmdport {command_b}"),
    );
    let result = std::panic::catch_unwind(|| talk(&folder, command_b));
    drop((server, client));
    let left = fs::read_dir(&folder).into_iter().flatten().flatten();
    let ours = left.filter(|e| e.file_name().to_string_lossy().starts_with("gnomon.")).count();
    let _ = fs::remove_dir_all(&folder);
    match result {
        Ok(true) => assert_eq!(ours, 0, "our end of the socket is removed"),
        Ok(false) => println!("SKIPPED: chronyd does not run here (it needs root)"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// False when chronyd never came up.
fn talk(folder: &Path, command_b: u16) -> bool {
    let patience = Duration::from_secs(1);
    let udp = ChronyAddress::Udp(SocketAddr::from((Ipv4Addr::LOCALHOST, command_b)));
    let unix = |name: &str| ChronyAddress::Unix(folder.join(format!("{name}.sock")));
    let mut came_up = false;
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(100));
        let Ok(mut client) = ChronyClient::connect(&unix("b"), patience) else { continue };
        let Ok(tracking) = client.tracking() else { continue };
        came_up = true;
        if tracking.leap_status != 0 {
            continue;
        }
        assert_eq!((tracking.stratum, tracking.reference_id), (5, 0x7F00_0001), "{tracking:?}");
        assert!(tracking.root_delay_s < 1.0 && tracking.correction_s.abs() < 1.0, "{tracking:?}");
        assert!(tracking.updated.0 > 1_735_689_600, "{tracking:?}");
        let mut over_udp = ChronyClient::connect(&udp, patience).expect("a udp socket");
        let sampled = Sampler::new(false).sample(&KernelClock, Some(&mut over_udp));
        let ChronyWord::Fix(fix) = sampled.chrony else { panic!("{sampled:?}") };
        assert_eq!(fix.source, FixSource::Chrony);
        assert!(fix.err_ns < 1_000_000_000, "{fix:?}");
        println!("chronyd's fix: ± {} ns, tracking {tracking:?}", fix.err_ns);
        // Its server has no source but its own clock, and so is no evidence.
        let mut local = ChronyClient::connect(&unix("a"), patience).expect("the server's socket");
        let sampled = Sampler::new(false).sample(&KernelClock, Some(&mut local));
        assert!(
            matches!(sampled.chrony, ChronyWord::Rejected(ChronyFixRejected::LocalReference)),
            "{sampled:?}"
        );
        let off = fix.utc.minus(KernelClock.bracket().realtime).unsigned_abs();
        assert!(off < 5_000_000_000 + fix.err_ns, "{off}");
        return true;
    }
    assert!(!came_up, "chronyd answers but never synchronised");
    false
}
