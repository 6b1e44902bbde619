//! AF_PACKET on real interfaces: everything that was sent is received or counted, and the host keeps its traffic.

mod network;

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gnomon_capture::{CaptureError, DropReason, Fanout, FilterError, Options, Shortened, Source, each, open};
use gnomon_clock::{Clock, KernelClock};
use network::{
    FILTER, OtherHost, Seen, Sender, assert_complete, drain_all, echo_client, echo_server, gso_tcp,
    in_private_namespace, ip, number_of, numbered, send_filtered, veth, wait_for,
};

fn open_rx(options: &Options) -> Source {
    open("rx0", options, Arc::new(KernelClock)).expect("AF_PACKET opens")
}

fn conserved(mtu: u32, len: usize, count: u64) {
    veth(mtu, 1);
    let mut source = open_rx(&Options::default());
    assert_eq!(Sender::new("tx0", false).send_numbered(0, count, len), count);
    let mut seen = Seen::default();
    drain_all(&mut source, Duration::from_millis(300), &mut seen);
    let stats = source.stats();
    assert_complete(&seen, 0, count, &stats);
    assert_eq!((stats.received, stats.lost()), (count, 0), "{stats:?}");
    assert_eq!(stats.received_bytes, count * len as u64);
    assert!(seen.lengths.iter().all(|l| *l == len as u32));
}

#[test]
fn conserves_64_bytes() {
    in_private_namespace(|| conserved(1500, 64, 20_000));
}

#[test]
fn conserves_1514_bytes() {
    in_private_namespace(|| conserved(1500, 1514, 5_000));
}

#[test]
fn conserves_9014_bytes() {
    in_private_namespace(|| conserved(9000, 9014, 1_000));
}

#[test]
fn sees_a_64_kib_gso_frame_whole() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        let frame = gso_tcp(62_648, 1448);
        let sender = Sender::new("tx0", true);
        for _ in 0..200 {
            assert!(sender.send(&frame));
        }
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(300), &mut seen);
        let stats = source.stats();
        assert_eq!((seen.lengths.len(), stats.lost(), stats.truncated), (200, 0, 0), "{stats:?}");
        assert!(seen.lengths.iter().all(|len| *len == 62_702), "{:?}", &seen.lengths[..4]);
    });
}

#[test]
fn big_tcp_frames_of_more_than_64_kib_are_whole() {
    in_private_namespace(|| {
        veth(1500, 1);
        let peer = OtherHost::new();
        ip(&format!("link set tx0 netns {}", peer.pid()));
        std::fs::write("/proc/sys/net/ipv6/conf/rx0/disable_ipv6", "0").unwrap();
        ip("-6 addr add fd00::2/64 dev rx0 nodad");
        let big = "gso_max_size 196608 gro_max_size 196608";
        let configured =
            Command::new("ip").args(["link", "set", "rx0"]).args(big.split(' ')).status().unwrap();
        assert!(peer.run("ip -6 addr add fd00::1/64 dev tx0 nodad && ip link set tx0 up"));
        if !configured.success() || !peer.run(&format!("ip link set tx0 {big}")) {
            println!("SKIPPED: this kernel or ip(8) has no BIG TCP");
            return;
        }
        let mut source = open_rx(&Options::default());
        const BYTES: usize = 16 << 20;
        let listener = std::net::TcpListener::bind("[fd00::2]:7777").unwrap();
        let writer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&vec![7; BYTES]).unwrap();
        });
        assert!(peer.run(&format!("[ $(cat < /dev/tcp/fd00::2/7777 | wc -c) = {BYTES} ]")));
        writer.join().unwrap();
        let mut lengths = Vec::new();
        wait_for(Duration::from_secs(5), || {
            source.wait(Duration::from_millis(60)).unwrap();
            let count = source
                .drain(
                    100_000,
                    each(|frame| {
                        assert_eq!(frame.data.len(), frame.original_len as usize);
                        lengths.push((frame.outgoing, frame.data.len()));
                    }),
                )
                .unwrap();
            count == 0 && !lengths.is_empty()
        });
        let stats = source.stats();
        let sent: usize = lengths.iter().filter(|(outgoing, _)| *outgoing).map(|(_, len)| len).sum();
        let largest = lengths.iter().map(|(_, len)| *len).max();
        assert!(sent > BYTES && stats.lost() == 0 && stats.truncated == 0, "{stats:?}");
        assert!(largest > Some(100_000), "largest frame {largest:?}");
    });
}

#[test]
fn a_full_ring_is_counted_exactly() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options { umem_bytes: 128 << 10, ..Options::default() });
        let sent = Sender::new("tx0", false).send_numbered(0, 20_000, 512);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(300), &mut seen);
        let stats = source.stats();
        assert!(stats.dropped(DropReason::Kernel) > 10_000, "{stats:?}");
        assert_eq!(seen.numbers.len() as u64 + stats.lost(), sent, "{stats:?}");
        // And it goes on afterwards.
        assert_eq!(Sender::new("tx0", false).send_numbered(sent, 10, 64), 10);
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        assert_eq!(&seen.numbers[seen.numbers.len() - 10..], (sent..sent + 10).collect::<Vec<_>>());
        assert_eq!(source.stats().lost(), stats.lost());
    });
}

#[test]
fn a_small_batch_ends_in_the_middle_of_a_block_and_goes_on() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        Sender::new("tx0", false).send_numbered(0, 100, 100);
        let mut numbers = Vec::new();
        wait_for(Duration::from_secs(5), || {
            let count =
                source.drain(7, each(|frame| numbers.push(network::number_of(&frame).unwrap()))).unwrap();
            assert!(count <= 7);
            numbers.len() == 100
        });
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn snaplen_cuts_the_frame_and_keeps_its_length() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options { snaplen: 96, ..Options::default() });
        Sender::new("tx0", false).send_numbered(0, 10, 1000);
        let mut frames = 0;
        wait_for(Duration::from_secs(5), || {
            source
                .drain(
                    100,
                    each(|frame| {
                        assert_eq!((frame.data.len(), frame.original_len), (96, 1000));
                        frames += 1;
                    }),
                )
                .unwrap();
            frames == 10
        });
        assert_eq!(source.stats().truncated, 10);
    });
}

#[test]
fn visible_within_200_ms_and_stamped_when_it_came() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        let sender = Sender::new("tx0", false);
        let mut latencies = Vec::new();
        for number in 0..20 {
            let before = KernelClock.raw();
            assert!(sender.send(&numbered(number, 64)));
            let after = KernelClock.raw();
            let mut stamp = None;
            wait_for(Duration::from_secs(5), || {
                source.drain(10, each(|frame| stamp = Some(frame.stamp))).unwrap();
                source.wait(Duration::from_millis(5)).unwrap();
                stamp.is_some()
            });
            latencies.push(KernelClock.raw().since(before));
            let stamp = stamp.unwrap();
            let err = u64::from(stamp.err_ns);
            assert!(
                stamp.raw.saturating_add(err) >= before && stamp.raw.saturating_sub(err) <= after,
                "{stamp:?} not in {before:?}..{after:?}"
            );
            assert!(stamp.err_ns < 1_000_000, "{stamp:?}");
        }
        latencies.sort_unstable();
        // The median only: the machine may be loaded.
        assert!(latencies[10] < 200_000_000, "{latencies:?}");
    });
}

#[test]
fn frames_older_than_a_second_have_an_honest_error() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        source.drain(1, each(|_| ())).unwrap();
        let before = KernelClock.raw();
        Sender::new("tx0", false).send_numbered(0, 1, 64);
        std::thread::sleep(Duration::from_millis(1300));
        let mut stamp = None;
        source.drain(10, each(|frame| stamp = Some(frame.stamp))).unwrap();
        let stamp = stamp.expect("released long ago");
        assert!(
            stamp.raw.saturating_sub(u64::from(stamp.err_ns)) <= before.saturating_add(1_000_000),
            "{stamp:?}"
        );
    });
}

#[test]
fn a_pause_loses_nothing_that_the_ring_has_bytes_for() {
    in_private_namespace(|| {
        veth(1500, 1);
        // Eight blocks: with one each 25 ms they were full after 200 ms.
        let mut source = open_rx(&Options { umem_bytes: 4 << 20, ..Options::default() });
        let (sender, mut seen) = (Sender::new("tx0", false), Seen::default());
        let mut sent = 0;
        for pause in 0..3 {
            // 2 s at 500 packets/s, while nobody reads; then a burst that goes on in the block of before.
            for _ in 0..1_000 {
                sent += sender.send_numbered(sent, 1, 100);
                std::thread::sleep(Duration::from_millis(2));
            }
            drain_all(&mut source, Duration::from_millis(300), &mut seen);
            sent += sender.send_numbered(sent, 5_000 * pause, 200);
            drain_all(&mut source, Duration::from_millis(300), &mut seen);
        }
        let stats = source.stats();
        assert_complete(&seen, 0, sent, &stats);
        assert_eq!((stats.received, stats.lost()), (sent, 0), "{stats:?}");
    });
}

#[test]
fn a_block_is_read_while_several_processors_fill_it() {
    in_private_namespace(|| {
        veth(1500, 2);
        // Few small blocks, so that each is used many times and what it held before lies under every new frame.
        let mut source = open_rx(&Options { umem_bytes: 1 << 20, block_retire_ms: 1, ..Options::default() });
        const EACH: u64 = 30_000;
        let senders: Vec<_> = (0..3)
            .map(|which| {
                let sender = Sender::new("tx0", false);
                std::thread::spawn(move || {
                    let first = which * EACH;
                    for number in first..first + EACH {
                        assert!(sender.send(&numbered(number, 60 + (number * 37 % 700) as usize)));
                        if number % 20 == 0 {
                            std::thread::sleep(Duration::from_micros(500));
                        }
                    }
                })
            })
            .collect();
        // Each byte of each frame is checked.
        let mut seen = Seen::default();
        while !senders.iter().all(|sender| sender.is_finished()) {
            drain_all(&mut source, Duration::from_millis(20), &mut seen);
        }
        drain_all(&mut source, Duration::from_millis(300), &mut seen);
        let stats = source.stats();
        assert_eq!(seen.numbers.len() as u64 + stats.lost(), 3 * EACH, "{stats:?}");
        seen.numbers.sort_unstable();
        seen.numbers.dedup();
        assert_eq!(seen.numbers.len() as u64 + stats.lost(), 3 * EACH, "some twice: {stats:?}");
    });
}

#[test]
fn a_vlan_tag_is_handed_over_whether_in_the_frame_or_beside_it() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x20, 0x64];
        frame.extend(network::ETHERTYPE);
        frame.extend([0; 60]);
        assert!(Sender::new("tx0", false).send(&frame));
        let mut tci = None;
        wait_for(Duration::from_secs(5), || {
            source
                .drain(
                    10,
                    each(|seen| {
                        let inline = (seen.data[12..14] == [0x81, 0])
                            .then(|| u16::from_be_bytes([seen.data[14], seen.data[15]]));
                        tci = seen.vlan.map(|tag| tag.tci).or(inline);
                        // With the tag beside the bytes, the frame is 4 bytes shorter.
                        assert_eq!(seen.data.len(), if seen.vlan.is_some() { 74 } else { 78 });
                    }),
                )
                .unwrap();
            tci.is_some()
        });
        assert_eq!(tci, Some(0x2064));
    });
}

#[test]
fn loopback_frames_come_once_and_the_copy_is_counted() {
    in_private_namespace(|| {
        let mut source = open("lo", &Options::default(), Arc::new(KernelClock)).unwrap();
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(b"once", receiver.local_addr().unwrap()).unwrap();
        }
        let mut frames = 0;
        wait_for(Duration::from_secs(5), || {
            source.drain(1000, each(|_| frames += 1)).unwrap();
            frames >= 100
        });
        let stats = source.stats();
        assert_eq!((frames, stats.dropped(DropReason::LoopbackDuplicate), stats.lost()), (100, 100, 0));
    });
}

#[test]
fn a_deleted_interface_is_an_error_and_a_downed_one_is_not() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        ip("link set rx0 down");
        for _ in 0..3 {
            source.wait(Duration::from_millis(50)).unwrap();
            source.drain(10, each(|_| ())).unwrap();
        }
        assert!(!source.stats().interface_up);
        ip("link set rx0 up");
        assert!(source.stats().interface_up);
        // The other end notices later, and drops what it is given until then.
        wait_for(Duration::from_secs(5), || ip("-o link show tx0").contains("state UP"));
        assert_eq!(Sender::new("tx0", false).send_numbered(0, 5, 64), 5);
        let mut seen = Seen::default();
        drain_all(&mut source, Duration::from_millis(200), &mut seen);
        assert_eq!(seen.numbers.len(), 5);
        ip("link del rx0");
        let mut error = None;
        wait_for(Duration::from_secs(3), || {
            source.wait(Duration::from_millis(50)).unwrap();
            error = source.drain(10, each(|_| ())).err();
            error.is_some()
        });
        assert!(matches!(error, Some(CaptureError::InterfaceGone { .. })), "{error:?}");
    });
}

#[test]
fn what_arrived_before_the_interface_was_deleted_is_handed_over() {
    in_private_namespace(|| {
        veth(1500, 1);
        // The frames are in a block that the kernel has not released yet.
        let mut source = open_rx(&Options { block_retire_ms: 300, ..Options::default() });
        let before = source.stats().netdev.unwrap().rx_packets;
        assert_eq!(Sender::new("tx0", false).send_numbered(0, 20, 64), 20);
        wait_for(Duration::from_secs(5), || source.stats().netdev.unwrap().rx_packets >= before + 20);
        ip("link del rx0");
        let (mut frames, mut error) = (0, None);
        wait_for(Duration::from_secs(10), || {
            source.wait(Duration::from_millis(20)).unwrap();
            error = source.drain(100, each(|frame| frames += usize::from(number_of(&frame).is_some()))).err();
            error.is_some()
        });
        assert!(matches!(error, Some(CaptureError::InterfaceGone { .. })), "{error:?}");
        assert_eq!(frames, 20);
    });
}

#[test]
fn fanout_splits_by_flow_without_loss_or_duplicate() {
    in_private_namespace(|| {
        veth(1500, 1);
        let options = Options { fanout: Some(Fanout { group: 7, workers: 2 }), ..Options::default() };
        let mut sources = [open_rx(&options), open_rx(&options)];
        let sender = Sender::new("tx0", false);
        let udp = |from: u8, to: u8, port: u8| {
            let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
            frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
            // Ports both ways: the flow hash must put both directions together.
            let (source, target) =
                if from < to { ([0x10, port], [0x20, 0]) } else { ([0x20, 0], [0x10, port]) };
            frame.extend(source);
            frame.extend(target);
            frame.extend([0, 12, 0, 0, port, 0, 0, 0]);
            frame
        };
        for port in 0..200 {
            assert!(sender.send(&udp(1, 2, port)) && sender.send(&udp(2, 1, port)));
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut ports = [Vec::new(), Vec::new()];
        for (source, ports) in sources.iter_mut().zip(&mut ports) {
            source.drain(1000, each(|frame| ports.push(frame.data[42]))).unwrap();
        }
        let [a, b] = ports;
        assert_eq!(a.len() + b.len(), 400);
        assert!(!a.is_empty() && !b.is_empty());
        assert!(!a.iter().any(|port| b.contains(port)), "a flow was split");
    });
}

#[test]
fn a_member_that_joins_under_traffic_sees_no_frame_of_another() {
    in_private_namespace(|| {
        veth(1500, 1);
        let options = Options {
            fanout: Some(Fanout { group: 8, workers: 33 }),
            umem_bytes: 4 << 20,
            ..Options::default()
        };
        let mut sources = vec![open_rx(&options)];
        let stop = Arc::new(AtomicBool::new(false));
        let sender = std::thread::spawn({
            let (sender, stop) = (Sender::new("tx0", false), stop.clone());
            move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    sender.send_numbered(number, 1, 64);
                    number += 1;
                }
            }
        });
        for _ in 0..32 {
            sources.push(open_rx(&options));
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        let mut seen = Seen::default();
        for source in &mut sources {
            drain_all(source, Duration::from_millis(60), &mut seen);
        }
        let count = seen.numbers.len();
        seen.numbers.sort_unstable();
        seen.numbers.dedup();
        assert!(
            count > 0 && seen.numbers.len() == count,
            "{} of {count} frames were seen twice",
            count - seen.numbers.len()
        );
    });
}

#[test]
fn the_default_on_an_addressed_interface_leaves_the_host_its_traffic() {
    in_private_namespace(|| {
        veth(1500, 1);
        let peer = OtherHost::new();
        ip(&format!("link set tx0 netns {}", peer.pid()));
        assert!(peer.run("ip addr add 10.77.0.1/24 dev tx0") && peer.run("ip link set tx0 up"));
        ip("addr add 10.77.0.2/24 dev rx0");
        let mut source = open_rx(&Options::default());
        assert!(!source.mode().takes_frames);
        echo_server("10.77.0.2:7777", 1);
        assert!(peer.run(&echo_client("10.77.0.2", 7777)), "the host must answer");
        let (mut incoming, mut outgoing) = (0, 0);
        wait_for(Duration::from_secs(5), || {
            source
                .drain(
                    100,
                    each(|frame| {
                        let is_tcp =
                            frame.data.get(12..14) == Some(&[8, 0]) && frame.data.get(23) == Some(&6);
                        incoming += u64::from(is_tcp && !frame.outgoing);
                        outgoing += u64::from(is_tcp && frame.outgoing);
                    }),
                )
                .unwrap();
            incoming >= 4 && outgoing >= 3
        });
    });
}

#[test]
fn a_wrong_name_says_which_names_are_right() {
    in_private_namespace(|| {
        let error = open("eth99", &Options::default(), Arc::new(KernelClock)).err().unwrap().to_string();
        assert!(error.contains("eth99") && error.contains("lo"), "{error}");
    });
}

/// The program of a filter, where there is libpcap to compile it; loudly not, where there is none.
fn no_libpcap() -> bool {
    let missing = matches!(gnomon_capture::filter::check(FILTER), Err(FilterError::NoCompiler { .. }));
    if missing {
        println!("SKIPPED: no libpcap here");
    }
    missing
}

#[test]
fn the_kernel_lets_only_pass_what_the_filter_wants() {
    in_private_namespace(|| {
        if no_libpcap() {
            return;
        }
        veth(1500, 1);
        let options = Options { filter: Some(FILTER.into()), ..Options::default() };
        let mut source = open_rx(&options);
        assert!(source.mode().to_string().contains("the kernel filters"), "{}", source.mode());
        send_filtered(&Sender::new("tx0", false), 1_000);
        let (mut plain, mut tagged) = (0, 0);
        wait_for(Duration::from_secs(10), || {
            source.wait(Duration::from_millis(50)).unwrap();
            let count = source.drain(
                100_000,
                each(|frame| {
                    assert_eq!(frame.data.len(), frame.original_len as usize);
                    match frame.vlan.map(|tag| tag.tci) {
                        None => plain += u64::from(frame.data[36..38] == 1009u16.to_be_bytes()),
                        Some(id) => tagged += u64::from(id == 7),
                    }
                }),
            );
            count.unwrap() == 0 && plain > 0
        });
        let stats = source.stats();
        assert_eq!((plain, tagged, stats.received, stats.lost()), (1_000, 1_000, 2_000, 0), "{stats:?}");
        // What the kernel left out it did not count; the interface did.
        assert_eq!(stats.dropped(DropReason::Filtered), 0);
        assert_eq!(stats.netdev.unwrap().rx_packets, 4_000);
    });
}

#[test]
fn a_filter_and_a_snaplen_and_a_fanout_group_hold_together() {
    in_private_namespace(|| {
        if no_libpcap() {
            return;
        }
        veth(1500, 1);
        let fanout = Some(Fanout { group: 3, workers: 2 });
        let options = Options { filter: Some(FILTER.into()), snaplen: 60, fanout, ..Options::default() };
        let mut sources = [open_rx(&options), open_rx(&options)];
        send_filtered(&Sender::new("tx0", false), 500);
        let mut received = 0;
        wait_for(Duration::from_secs(10), || {
            for source in &mut sources {
                let each = each(|frame| {
                    assert_eq!((frame.data.len(), frame.original_len), (60, 142));
                    received += 1;
                });
                source.wait(Duration::from_millis(10)).unwrap();
                source.drain(256, each).unwrap();
            }
            received >= 1_000
        });
        // A frame in both rings would come late.
        std::thread::sleep(Duration::from_millis(200));
        for source in &mut sources {
            source.drain(256, each(|_| received += 1)).unwrap();
        }
        assert_eq!(received, 1_000);
    });
}

#[test]
fn of_streams_that_are_shortened_the_kernel_copies_headers_only() {
    in_private_namespace(|| {
        veth(1500, 1);
        let mut source = open_rx(&Options::default());
        let frame = gso_tcp(62_648, 1448);
        let ends = |at: usize| -> SocketAddr {
            // Behind the virtio_net_hdr.
            let sent = &frame[10..];
            let address: [u8; 4] = sent[14 + 12 + 4 * at..][..4].try_into().unwrap();
            (address, u16::from_be_bytes(sent[34 + 2 * at..][..2].try_into().unwrap())).into()
        };
        let sender = Sender::new("tx0", true);
        let send = |source: &mut Source| {
            (0..50).for_each(|_| assert!(sender.send(&frame)));
            let mut seen = Vec::new();
            wait_for(Duration::from_secs(5), || {
                source.wait(Duration::from_millis(60)).unwrap();
                source.drain(256, each(|frame| seen.push((frame.data.len(), frame.original_len)))).unwrap();
                seen.len() == 50
            });
            assert!(seen.iter().all(|of| *of == seen[0]));
            seen[0]
        };
        let (from, to) = (ends(0), ends(1));
        assert_eq!(send(&mut source), (62_702, 62_702));
        source.shorten(&Shortened { endpoints: vec![to], ..Shortened::default() }).unwrap();
        assert_eq!(send(&mut source), (138, 62_702));
        source.shorten(&Shortened { streams: vec![(6, to, from)], ..Shortened::default() }).unwrap();
        assert_eq!(send(&mut source), (138, 62_702));
        source.shorten(&Shortened { streams: vec![(17, to, from)], ..Shortened::default() }).unwrap();
        assert_eq!(send(&mut source), (62_702, 62_702));
        assert_eq!(source.stats().lost(), 0);
    });
}

#[test]
fn a_filter_with_a_mistake_opens_nothing() {
    in_private_namespace(|| {
        if no_libpcap() {
            return;
        }
        veth(1500, 1);
        let options = Options { filter: Some("udp prt 1".into()), ..Options::default() };
        let error = open("rx0", &options, Arc::new(KernelClock)).err().unwrap().to_string();
        assert!(error.contains("udp prt 1") && error.contains("syntax error"), "{error}");
    });
}

#[test]
fn a_filter_waits_for_an_interface_that_is_down() {
    in_private_namespace(|| {
        if no_libpcap() {
            return;
        }
        veth(1500, 1);
        ip("link set rx0 down");
        let options = Options { filter: Some(FILTER.into()), ..Options::default() };
        let error = open("rx0", &options, Arc::new(KernelClock)).err().unwrap();
        assert!(matches!(error, CaptureError::Filter(FilterError::NotNow { .. })), "{error}");
        ip("link set rx0 up");
        open_rx(&options);
    });
}
