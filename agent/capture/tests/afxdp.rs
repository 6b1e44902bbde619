//! AF_XDP on real interfaces: everything sent is received or counted, an agent that stalls or dies gives the host its
//! traffic back, and nothing is taken that was not asked for.

mod network;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gnomon_capture::{Backend, CaptureError, DropReason, Options, Queues, Rung, Source, Stance, each, open};
use gnomon_clock::{Clock, KernelClock};
use network::{
    FILTER, OtherHost, Seen, Sender, assert_complete, drain_all, echo_client, echo_server, gso_tcp,
    in_private_namespace, ip, numbered, send_filtered, veth, wait_for, with_capabilities_of_the_unit,
};

fn tap() -> Options {
    Options { stance: Stance::Tap, backend: Backend::AfXdp, ..Options::default() }
}

/// None, loudly, where this kernel or user may not.
fn open_rx(options: &Options) -> Option<Source> {
    match open("rx0", options, Arc::new(KernelClock)) {
        Ok(source) => Some(source),
        Err(error @ (CaptureError::NoRung { .. } | CaptureError::System { .. })) => {
            println!("SKIPPED: no AF_XDP here: {error}");
            // On the machines this project is tested on it must work.
            assert!(std::env::var_os("GNOMON_REQUIRE_AF_XDP").is_none(), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn conserved(mtu: u32, len: usize, count: u64, options: &Options) {
    veth(mtu, 1);
    let Some(mut source) = open_rx(options) else { return };
    println!("{}", source.mode());
    // In portions, so that the ring is deep enough: loss has its own test.
    let mut seen = Seen::default();
    let sender = Sender::new("tx0", false);
    for first in (0..count).step_by(200) {
        assert_eq!(sender.send_numbered(first, 200, len), 200);
        drain_all(&mut source, Duration::from_millis(3), &mut seen);
    }
    drain_all(&mut source, Duration::from_millis(200), &mut seen);
    let stats = source.stats();
    assert_complete(&seen, 0, count, &stats);
    assert_eq!((stats.received, stats.lost(), stats.truncated), (count, 0, 0), "{stats:?}");
    assert_eq!(stats.received_bytes, count * len as u64);
    assert_eq!(stats.queues[0].redirected, count, "{stats:?}");
    assert_eq!(seen.raw_out_of_order, 0);
}

#[test]
fn conserves_64_bytes() {
    in_private_namespace(|| conserved(1500, 64, 20_000, &tap()));
}

#[test]
fn conserves_1514_bytes() {
    in_private_namespace(|| conserved(1500, 1514, 4_000, &tap()));
}

#[test]
fn conserves_9014_bytes_over_several_buffers() {
    in_private_namespace(|| {
        conserved(9000, 9014, 1_000, &tap());
    });
}

#[test]
fn the_mode_is_read_back_and_every_refusal_is_recorded() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(source) = open_rx(&tap()) else { return };
        let mode = source.mode();
        // veth has no zero copy.
        assert_eq!(mode.rung, Rung::CopyMultiBuffer, "{mode}");
        assert!(mode.takes_frames);
        let refused: Vec<Rung> = mode.refused.iter().map(|refusal| refusal.rung).collect();
        assert_eq!(refused, [Rung::ZeroCopyMultiBuffer, Rung::ZeroCopy]);
        assert!(mode.refused.iter().all(|refusal| refusal.reason.contains("os error")), "{mode}");
    });
}

#[test]
fn a_gso_transfer_arrives_in_segments_every_one_of_them() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open_rx(&tap()) else { return };
        // Native XDP turns TSO off at the peer: the sender's kernel cuts 63,712 B into 44 segments of 1448 B.
        let sender = Sender::new("tx0", true);
        let mut seen = Seen::default();
        for _ in 0..50 {
            assert!(sender.send(&gso_tcp(63_712, 1448)));
            drain_all(&mut source, Duration::from_millis(3), &mut seen);
        }
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_eq!((seen.lengths.len() as u64 + stats.lost(), stats.lost()), (50 * 44, 0), "{stats:?}");
        assert!(seen.lengths.iter().all(|len| *len == 54 + 1448));
    });
}

#[test]
fn a_64_kib_frame_comes_over_many_buffers() {
    in_private_namespace(|| {
        veth(65_535, 1);
        let Some(mut source) = open_rx(&tap()) else { return };
        let sender = Sender::new("tx0", false);
        let mut seen = Seen::default();
        for number in 0..100 {
            assert!(sender.send(&numbered(number, 65_000)));
            drain_all(&mut source, Duration::from_millis(3), &mut seen);
        }
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_eq!(stats.lost(), 0, "{}: {stats:?}", source.mode());
        assert_complete(&seen, 0, 100, &stats);
    });
}

#[test]
fn an_interface_without_native_xdp_falls_to_the_generic_hook() {
    in_private_namespace(|| {
        // A bridge has no native XDP. Its one port hands it everything.
        ip("link add br0 type bridge");
        veth(1500, 1);
        ip("link set rx0 master br0");
        ip("link set br0 up");
        let options = Options { snaplen: 128, ..tap() };
        let mut source = open("br0", &options, Arc::new(KernelClock)).unwrap();
        let mode = source.mode();
        assert!(mode.rung.generic() && mode.refused[0].reason.contains("attaching"), "{mode}");
        let mut seen = Seen::default();
        wait_for(Duration::from_secs(5), || {
            // Until the port forwards.
            Sender::new("tx0", false).send(&numbered(0, 64));
            drain_all(&mut source, Duration::from_millis(50), &mut seen);
            !seen.numbers.is_empty()
        });
        let before = source.stats();
        let mut seen = Seen::default();
        assert_eq!(Sender::new("tx0", false).send_numbered(0, 500, 1514), 500);
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_complete(&seen, 0, 500, &stats);
        assert_eq!((stats.truncated - before.truncated, stats.lost()), (500, before.lost()), "{stats:?}");
        // Here a GSO frame is not cut into segments: it comes whole.
        let mut seen = Seen::default();
        for _ in 0..20 {
            assert!(Sender::new("tx0", true).send(&gso_tcp(62_648, 1448)));
            drain_all(&mut source, Duration::from_millis(5), &mut seen);
        }
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let lost = source.stats().lost() - stats.lost();
        assert_eq!(seen.lengths.len() as u64 + lost, 20, "{:?}", source.stats());
        assert!(seen.lengths.iter().all(|len| *len == 62_702), "{:?}", seen.lengths);
    });
}

#[test]
fn overload_is_counted_exactly() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open_rx(&Options { ring_frames: 64, ..tap() }) else { return };
        // Nobody reads: 64 fit, the rest is lost, with its reason.
        let sent = Sender::new("tx0", false).send_numbered(0, 5_000, 200);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert!(stats.lost() >= 4_000, "{stats:?}");
        assert_eq!(seen.numbers.len() as u64 + stats.lost(), sent, "{stats:?}");
        // It goes on afterwards, with the same buffers: more rounds than there are buffers.
        for round in 0..40 {
            let first = sent + round * 32;
            let mut seen = Seen::default();
            assert_eq!(Sender::new("tx0", false).send_numbered(first, 32, 200), 32);
            drain_all(&mut source, Duration::from_millis(5), &mut seen);
            assert_complete(&seen, first, 32, &source.stats());
        }
        assert_eq!(source.stats().lost(), stats.lost());
    });
}

#[test]
fn overload_of_multi_buffer_frames_is_counted_exactly() {
    in_private_namespace(|| {
        veth(9000, 1);
        let Some(mut source) = open_rx(&Options { ring_frames: 64, ..tap() }) else { return };
        let sent = Sender::new("tx0", false).send_numbered(0, 500, 9014);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert!(stats.lost() > 400 && !seen.numbers.is_empty(), "{stats:?}");
        assert_eq!(seen.numbers.len() as u64 + stats.lost(), sent, "{stats:?}");
    });
}

#[test]
fn a_slow_reader_loses_with_a_count_and_keeps_the_arrival_times() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open_rx(&tap()) else { return };
        source.drain(1, each(|_| ())).unwrap();
        let before = KernelClock.raw();
        Sender::new("tx0", false).send_numbered(0, 100, 64);
        let after = KernelClock.raw();
        let mut stamps = Vec::new();
        // The first drain sees all and takes one; the last takes its frame half a second later.
        for _ in 0..100 {
            source.drain(1, each(|frame| stamps.push(frame.stamp))).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(stamps.len(), 100);
        for stamp in stamps {
            let err = u64::from(stamp.err_ns);
            assert!(
                stamp.raw.saturating_sub(err) <= after && stamp.raw.saturating_add(err) >= before,
                "{stamp:?}"
            );
            assert!(err < 300_000_000, "the stamp must be that of the first look: {stamp:?}");
        }
    });
}

#[test]
fn every_queue_is_bound() {
    in_private_namespace(|| {
        veth(1500, 4);
        // One cpu may steer all to one queue: count what the program redirected on each.
        let Some(mut source) = open_rx(&tap()) else { return };
        assert_eq!(source.mode().queues, 4, "{}", source.mode());
        let sender = Sender::new("tx0", false);
        let mut seen = Seen::default();
        assert_eq!(sender.send_numbered(0, 1000, 100), 1000);
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_eq!((seen.numbers.len() as u64, stats.lost(), stats.queues.len()), (1000, 0, 4), "{stats:?}");
    });
}

#[test]
fn an_unbound_queue_is_counted() {
    in_private_namespace(|| {
        veth(1500, 2);
        let Some(mut source) = open_rx(&Options { queues: Queues::Only(vec![1]), ..tap() }) else { return };
        let sent = Sender::new("tx0", false).send_numbered(0, 1000, 100);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_eq!(seen.numbers.len() as u64 + stats.dropped(DropReason::NoSocket), sent, "{stats:?}");
    });
}

#[test]
fn a_queue_added_later_is_bound_too() {
    in_private_namespace(|| {
        veth(1500, 4);
        let set = |interface: &str, what: &str, count: &str| {
            let status = Command::new("ethtool").args(["-L", interface, what, count]).status();
            status.is_ok_and(|status| status.success())
        };
        // The peer needs no more transmit queues than we have receive queues.
        if !set("tx0", "tx", "1") || !set("rx0", "rx", "1") {
            println!("SKIPPED: ethtool cannot set channels here");
            return;
        }
        let Some(mut source) = open_rx(&tap()) else { return };
        assert_eq!(source.mode().queues, 1);
        assert!(set("rx0", "rx", "3"));
        source.stats();
        assert_eq!(source.mode().queues, 3, "{}", source.mode());
        assert_eq!(source.stats().queues.len(), 3);
        let sent = Sender::new("tx0", false).send_numbered(0, 100, 100);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        assert_eq!((seen.numbers.len() as u64, source.stats().lost()), (sent, 0));
    });
}

#[test]
fn the_host_gets_its_frames_when_the_reader_stalls_and_loses_them_again_when_it_returns() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open_rx(&tap()) else { return };
        // What reaches the host is what a packet socket behind the XDP hook sees.
        let mut host = open("rx0", &Options::default(), Arc::new(KernelClock)).unwrap();
        let sender = Sender::new("tx0", false);
        let (mut taken, mut passed) = (Seen::default(), Seen::default());

        assert_eq!(sender.send_numbered(0, 50, 64), 50);
        drain_all(&mut source, Duration::from_millis(100), &mut taken);
        assert_eq!(taken.numbers.len(), 50);

        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(sender.send_numbered(50, 50, 64), 50);
        drain_all(&mut host, Duration::from_millis(200), &mut passed);
        assert_eq!(
            passed.numbers,
            (50..100).collect::<Vec<_>>(),
            "a stalled tap must fail open, and only then"
        );

        drain_all(&mut source, Duration::from_millis(20), &mut taken);
        assert_eq!(sender.send_numbered(100, 50, 64), 50);
        drain_all(&mut source, Duration::from_millis(100), &mut taken);
        drain_all(&mut host, Duration::from_millis(100), &mut passed);
        let stats = source.stats();
        assert_eq!((taken.numbers.len(), passed.numbers.len()), (100, 50), "{stats:?}");
        assert_eq!(
            (stats.received, stats.dropped(DropReason::Passed), stats.lost()),
            (100, 50, 50),
            "{stats:?}"
        );
    });
}

/// Run as a child process: captures rx0 until it is killed.
#[test]
#[ignore = "the child process of other tests"]
fn holder() {
    if std::env::var_os("GNOMON_TEST_HOLDER").is_none() {
        return;
    }
    let mut source = open("rx0", &tap(), Arc::new(KernelClock)).expect("the parent opened it before");
    loop {
        source.drain(256, each(|_| ())).expect("draining");
        source.wait(Duration::from_millis(100)).expect("waiting");
    }
}

struct Holder(Child);

impl Holder {
    fn start() -> Holder {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder", "--ignored"])
            .env("GNOMON_TEST_HOLDER", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Holder(child)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_xdp() -> bool {
    gnomon_capture::interface::describe("rx0").unwrap().xdp_program.is_some_and(|id| id != 0)
}

fn host_receives(first: u64) -> usize {
    let mut host = open("rx0", &Options::default(), Arc::new(KernelClock)).unwrap();
    assert_eq!(Sender::new("tx0", false).send_numbered(first, 10, 64), 10);
    let mut seen = Seen::default();
    drain_all(&mut host, Duration::from_millis(100), &mut seen);
    seen.numbers.len()
}

#[test]
fn sigkill_detaches_the_program_and_sigstop_lets_frames_pass() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(source) = open_rx(&tap()) else { return };
        drop(source);
        let mut holder = Holder::start();
        wait_for(Duration::from_secs(10), || has_xdp() && host_receives(0) == 0);
        holder.signal("-STOP");
        std::thread::sleep(Duration::from_millis(1300));
        assert_eq!(host_receives(0), 10, "a stopped agent must not cut the host off");
        holder.signal("-CONT");
        wait_for(Duration::from_secs(5), || host_receives(0) == 0);
        holder.0.kill().unwrap();
        holder.0.wait().unwrap();
        wait_for(Duration::from_secs(2), || !has_xdp());
        assert_eq!(host_receives(0), 10);
    });
}

#[test]
fn a_second_program_is_refused_with_the_name_of_the_first() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(_first) = open_rx(&tap()) else { return };
        let error = open("rx0", &tap(), Arc::new(KernelClock)).err().expect("only one may take frames");
        assert!(matches!(error, CaptureError::Occupied { .. }), "{error}");
        assert!(error.to_string().contains("gnomon_xdp"), "{error}");
    });
}

#[test]
fn it_opens_again_at_once_after_closing() {
    in_private_namespace(|| {
        veth(1500, 1);
        for _ in 0..5 {
            let Some(mut source) = open_rx(&tap()) else { return };
            assert_eq!(source.mode().rung, Rung::CopyMultiBuffer, "{}", source.mode());
            assert_eq!(Sender::new("tx0", false).send_numbered(0, 10, 64), 10);
            let mut seen = Seen::default();
            drain_all(&mut source, Duration::from_millis(50), &mut seen);
            assert_eq!(seen.numbers.len(), 10);
        }
    });
}

#[test]
fn a_deleted_interface_is_an_error() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open_rx(&tap()) else { return };
        assert_eq!(Sender::new("tx0", false).send_numbered(0, 10, 64), 10);
        std::thread::sleep(Duration::from_millis(50));
        ip("link del rx0");
        let (mut frames, mut error) = (0, None);
        wait_for(Duration::from_secs(3), || {
            source.wait(Duration::from_secs(2)).unwrap();
            match source.drain(3, each(|_| frames += 1)) {
                Ok(_) => false,
                Err(gone) => {
                    error = Some(gone);
                    true
                }
            }
        });
        assert!(matches!(error, Some(CaptureError::InterfaceGone { .. })), "{error:?}");
        assert_eq!(frames, 10, "what had arrived is handed over first");
        assert!(!source.stats().interface_up);
    });
}

#[test]
fn an_addressed_interface_is_refused_unless_it_was_said() {
    in_private_namespace(|| {
        veth(1500, 1);
        ip("addr add 10.77.0.2/24 dev rx0");
        let error = open("rx0", &tap(), Arc::new(KernelClock)).err().expect("the host needs its traffic");
        assert!(matches!(error, CaptureError::Addressed { .. }), "{error}");
        assert!(error.to_string().contains("10.77.0.2"), "{error}");
        assert!(!has_xdp());
        if let Some(source) = open_rx(&Options { steal_addressed: true, ..tap() }) {
            assert!(source.mode().takes_frames && has_xdp());
        }
    });
}

#[test]
fn the_default_never_attaches_a_program() {
    in_private_namespace(|| {
        veth(1500, 1);
        let peer = OtherHost::new();
        ip(&format!("link set tx0 netns {}", peer.pid()));
        assert!(peer.run("ip addr add 10.77.0.1/24 dev tx0 && ip link set tx0 up"));
        ip("addr add 10.77.0.2/24 dev rx0");
        let source = open("rx0", &Options::default(), Arc::new(KernelClock)).unwrap();
        assert_eq!(source.mode().rung, Rung::PacketMmap);
        assert!(!has_xdp() && !source.mode().refused.is_empty());
        echo_server("10.77.0.2:7777", 1);
        assert!(peer.run(&echo_client("10.77.0.2", 7777)));
    });
}

#[test]
fn a_tap_that_is_down_says_so() {
    in_private_namespace(|| {
        veth(1500, 1);
        ip("link set rx0 down");
        let error = open("rx0", &tap(), Arc::new(KernelClock)).err().unwrap();
        assert!(matches!(error, CaptureError::InterfaceDown { .. }), "{error}");
    });
}

#[test]
fn a_filter_leaves_frames_out_and_counts_them() {
    in_private_namespace(|| {
        if let Err(error) = gnomon_capture::filter::check(FILTER) {
            println!("SKIPPED: {error}");
            return;
        }
        veth(1500, 1);
        let Some(mut source) = open_rx(&Options { filter: Some(FILTER.into()), ..tap() }) else { return };
        let sender = Sender::new("tx0", false);
        let mut seen = Seen::default();
        for _ in 0..20 {
            send_filtered(&sender, 50);
            drain_all(&mut source, Duration::from_millis(3), &mut seen);
        }
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        let stats = source.stats();
        assert_eq!((stats.received, stats.dropped(DropReason::Filtered), stats.lost()), (2_000, 2_000, 0));
        assert_eq!(stats.received_bytes, 1_000 * (142 + 146), "{stats:?}");
        assert_eq!(seen.lengths.iter().filter(|len| **len == 146).count(), 1_000);
    });
}

#[test]
fn the_capabilities_of_the_systemd_unit_are_enough() {
    in_private_namespace(|| {
        veth(1500, 1);
        if !with_capabilities_of_the_unit() {
            return;
        }
        let Some(mut source) = open_rx(&tap()) else { return };
        assert_eq!(source.mode().rung, Rung::CopyMultiBuffer, "{}", source.mode());
        assert_eq!(Sender::new("tx0", false).send_numbered(0, 100, 64), 100);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(100), &mut seen);
        assert_complete(&seen, 0, 100, &source.stats());
    });
}
