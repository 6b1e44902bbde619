//! The bound program in the real kernel, on a veth. Its driver answers the call and has no stamp for any frame, and no other
//! driver was at hand: so where a stamp is needed, a function of the program's own gives it in the driver's place. The clock
//! of the NIC is played too. Everything between is real: the program, its mark before the frame, the ring, the drain.

use std::fs::File;
use std::sync::atomic::{AtomicI64, Ordering};

use aya_obj::generated::bpf_insn;
use gnomon_clock::KernelClock;

use super::bound::Asked;
use super::nic_stamps::Wanted;
use super::*;
use crate::frame::Stamp;
use crate::network::{
    Sender, in_private_namespace, ip, number_of, numbered, veth, with_capabilities_of_the_unit,
};
use crate::nic::NicClock;
use crate::options::Stance;
use crate::played_nic::PlayedNic;

/// Frames wait in the ring for so long, which their usual stamp must admit, and the NIC's need not.
const LATE: Duration = Duration::from_millis(50);
const CLAIM_NS_MAX: u32 = 10_000_000;

/// One instruction: code, destination, source, offset, immediate.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(dst, src), off, imm }
}

/// A driver that stamps by CLOCK_MONOTONIC every frame whose stamp would have no bit of `never`; for others it says ENODATA.
fn stamps_but(never: i32) -> Asked {
    Asked::Played(vec![
        insn(0xbf, 6, 2, 0, 0),              // r6 = r2, where the stamp goes
        insn(0x85, 0, 0, 0, 5),              // r0 = bpf_ktime_get_ns()
        insn(0xbf, 1, 0, 0, 0),              // r1 = r0
        insn(0x57, 1, 0, 0, never),          // r1 &= never
        insn(0x55, 1, 0, 3, 0),              // if r1 != 0 goto +3
        insn(0x7b, 6, 0, 0, 0),              // *(u64 *)r6 = r0
        insn(0xb7, 0, 0, 0, 0),              // r0 = 0
        insn(0x95, 0, 0, 0, 0),              // exit
        insn(0xb7, 0, 0, 0, -libc::ENODATA), // r0 = -ENODATA
        insn(0x95, 0, 0, 0, 0),              // exit
    ])
}

fn by_monotonic() -> Arc<PlayedNic> {
    Arc::new(PlayedNic { counts: || KernelClock.monotonic().0.cast_signed(), set_ns: AtomicI64::new(0) })
}

fn tap() -> Options {
    Options { stance: Stance::Tap, ..Options::default() }
}

/// None, loudly, where this kernel or user may not.
fn open(name: &str, options: &Options, clock: &Arc<PlayedNic>, asked: Asked) -> Option<AfXdp> {
    let interface = interface::describe(name).unwrap();
    let device = File::open("/dev/null").unwrap();
    let nic = NicClock::begin(device, &**clock).unwrap();
    let wanted = Wanted { asked, clock: nic, device: "/dev/ptp7".into() };
    let mut refused = Vec::new();
    let opened =
        AfXdp::open_with(&interface, options, Arc::clone(clock) as _, Some(Ok(wanted)), &mut refused);
    match opened.unwrap() {
        Some(source) => Some(source),
        None => {
            println!("SKIPPED: no AF_XDP here: {refused:?}");
            assert!(std::env::var_os("GNOMON_REQUIRE_AF_XDP").is_none(), "{refused:?}");
            None
        }
    }
}

/// As a worker does on a quiet link.
fn watch_for(source: &mut AfXdp, ms: u64) {
    let begun = KernelClock.monotonic();
    while KernelClock.monotonic().since(begun) < ms * 1_000_000 {
        source.drain(64, |_| panic!("nobody sends")).unwrap();
        source.wait(Duration::from_millis(10)).unwrap();
    }
}

/// Sends numbered frames (soon: a clock that nobody looks at for a second is not believed), lets them wait, and returns when each was sent (between the two) and its stamp.
fn send_and_take(source: &mut AfXdp, first: u64, count: u64, len: usize) -> Vec<(RawNs, RawNs, Stamp)> {
    let sender = Sender::new("tx0", false);
    let sent: Vec<(RawNs, RawNs)> = (first..first + count)
        .map(|number| {
            let before = KernelClock.raw();
            assert!(sender.send(&numbered(number, len)));
            (before, KernelClock.raw())
        })
        .collect();
    std::thread::sleep(LATE);
    let mut taken = Vec::new();
    while taken.len() < sent.len() {
        let mut sink = |frames: &[Frame<'_>]| {
            for frame in frames {
                let (before, after) = sent[taken.len()];
                assert_eq!(number_of(frame), Some(first + taken.len() as u64));
                taken.push((before, after, frame.stamp));
            }
        };
        assert!(source.drain(64, &mut sink).unwrap() > 0, "{:?}", source.stats());
    }
    taken
}

/// Frames that all come with the NIC's stamp. On a machine that stalls for a second its clock is not believed for a while.
fn believed(source: &mut AfXdp, first: u64, count: u64, len: usize) -> Vec<(RawNs, RawNs, Stamp)> {
    let mut taken = Vec::new();
    for attempt in 0..5 {
        taken = send_and_take(source, first + attempt * count, count, len);
        assert!(taken.iter().all(honest), "{taken:?}");
        if taken.iter().all(|(_, _, stamp)| stamp.err_ns < CLAIM_NS_MAX) {
            return taken;
        }
        watch_for(source, 1_800);
    }
    panic!("not the NIC's: {taken:?}");
}

/// The frame came within what its stamp claims.
fn honest((before, after, stamp): &(RawNs, RawNs, Stamp)) -> bool {
    let err = u64::from(stamp.err_ns);
    // The softirq that receives it may run a little after the send returns.
    let received = after.saturating_add(20_000_000);
    stamp.raw.saturating_add(err) >= *before && stamp.raw.saturating_sub(err) <= received
}

fn attached() -> String {
    program::name_of(interface::xdp_program(interface::describe("rx0").unwrap().index).unwrap())
}

#[test]
fn a_driver_without_stamps_is_asked_and_its_frames_keep_their_usual_stamps() {
    in_private_namespace(|| {
        veth(1500, 1);
        let index = interface::describe("rx0").unwrap().index;
        assert_ne!(interface::stamps_for_programs(index), Some(false), "veth offers the function");
        let asked = match Asked::driver() {
            Ok(asked) => asked,
            Err(why) => return println!("SKIPPED: {why}"),
        };
        let Some(mut source) = open("rx0", &tap(), &by_monotonic(), asked) else { return };
        let mode = source.mode().to_string();
        assert!(mode.contains("; note: stamps by the NIC (/dev/ptp7)"), "{mode}");
        assert!(attached().starts_with("`gnomon_xdp_nic`"), "{}", attached());
        watch_for(&mut source, 300);
        let taken = send_and_take(&mut source, 0, 200, 64);
        assert!(taken.iter().all(honest), "{taken:?}");
        assert!(taken.iter().all(|(_, _, stamp)| stamp.err_ns > 20_000_000), "no stamp can be the NIC's");
        let stats = source.stats();
        assert_eq!((stats.received, stats.lost(), stats.queues[0].redirected), (200, 0, 200), "{stats:?}");
        let mode = source.mode().to_string();
        assert!(mode.contains("(/dev/ptp7), but the driver has handed over none with its frames"), "{mode}");
    });
}

#[test]
fn frames_get_the_stamp_of_the_nic_where_it_made_one() {
    in_private_namespace(|| {
        veth(1500, 1);
        // As few buffers as can be, each used again and again: a mark must not be taken for the next frame's.
        let options = Options { ring_frames: 64, ..tap() };
        let Some(mut source) = open("rx0", &options, &by_monotonic(), stamps_but(1 << 13)) else { return };
        watch_for(&mut source, 300);
        let (mut by_nic, mut usual) = (0, 0);
        for round in 0..30 {
            watch_for(&mut source, 100);
            let taken = send_and_take(&mut source, round * 40, 40, 64);
            assert!(taken.iter().all(honest), "{taken:?}");
            let (near, far): (Vec<_>, Vec<_>) =
                taken.iter().partition(|(_, _, stamp)| stamp.err_ns < CLAIM_NS_MAX);
            assert!(far.iter().all(|(_, _, stamp)| stamp.err_ns > 20_000_000), "{far:?}");
            by_nic += near.len() as u64;
            usual += far.len() as u64;
        }
        assert!(by_nic > 100 && usual > 100, "{by_nic} by the NIC, {usual} as usual");
        // What came with a stamp may not have been believed.
        let (stamped, bare) = (source.queues[0].stamped, source.queues[0].bare);
        assert!(
            stamped + bare == by_nic + usual && bare <= usual,
            "{stamped} stamped, {bare} bare, {usual} usual"
        );
        source.stats();
        let mode = source.mode().to_string();
        assert!(mode.contains("(/dev/ptp7), but not of all frames"), "{mode}");
    });
}

#[test]
fn a_frame_over_several_buffers_has_the_stamp_of_its_first() {
    in_private_namespace(|| {
        veth(9000, 1);
        let Some(mut source) = open("rx0", &tap(), &by_monotonic(), stamps_but(0)) else { return };
        assert!(source.mode().rung.multi_buffer(), "{}", source.mode());
        watch_for(&mut source, 300);
        believed(&mut source, 0, 100, 9014);
        source.stats();
        let mode = source.mode().to_string();
        assert!(mode.contains("stamps by the NIC (/dev/ptp7);"), "{mode}");
    });
}

#[test]
fn a_clock_that_was_set_counts_for_nothing() {
    in_private_namespace(|| {
        veth(1500, 1);
        let clock = by_monotonic();
        let Some(mut source) = open("rx0", &tap(), &clock, stamps_but(0)) else { return };
        // One reading says nothing of a rate.
        let taken = send_and_take(&mut source, 0, 1, 64);
        assert!(honest(&taken[0]), "{taken:?}");
        watch_for(&mut source, 300);
        clock.set_ns.store(40_000_000, Ordering::Relaxed);
        let taken = send_and_take(&mut source, 1, 20, 64);
        assert!(taken.iter().all(honest), "{taken:?}");
        assert!(taken.iter().all(|(_, _, stamp)| stamp.err_ns > 20_000_000), "{taken:?}");
        clock.set_ns.store(0, Ordering::Relaxed);
        watch_for(&mut source, 1_800);
        believed(&mut source, 21, 20, 64);
    });
}

#[test]
fn without_the_option_the_program_is_not_bound() {
    in_private_namespace(|| {
        veth(1500, 1);
        let interface = interface::describe("rx0").unwrap();
        let open = |hardware_stamps| {
            let options = Options { hardware_stamps, ..tap() };
            AfXdp::open(&interface, &options, Arc::new(KernelClock), &mut Vec::new()).unwrap()
        };
        let Some(source) = open(false) else { return println!("SKIPPED: no AF_XDP here") };
        let mode = source.mode().to_string();
        assert!(attached().starts_with("`gnomon_xdp`") && !mode.contains("NIC"), "{}, {mode}", attached());
        drop(source);
        // With it, veth has no clock that could be read, and nothing is bound either.
        let source = open(true).unwrap();
        let mode = source.mode().to_string();
        assert!(attached().starts_with("`gnomon_xdp`"), "{}", attached());
        assert!(mode.contains("; note: no stamps by the NIC: "), "{mode}");
    });
}

#[test]
fn what_the_kernel_refuses_is_said_and_the_usual_program_serves() {
    in_private_namespace(|| {
        veth(1500, 1);
        // The kernel knows no function by this id.
        let Some(mut source) = open("rx0", &tap(), &by_monotonic(), Asked::Driver(0x7fff_fff0)) else {
            return;
        };
        let mode = source.mode().to_string();
        assert!(mode.contains("no stamps by the NIC: the XDP program that asks for them: "), "{mode}");
        assert!(attached().starts_with("`gnomon_xdp`"), "{}", attached());
        let taken = send_and_take(&mut source, 0, 20, 64);
        assert!(taken.iter().all(honest), "{taken:?}");
        drop(source);

        // A bridge has no hook in its driver.
        ip("link add br0 type bridge");
        ip("link set br0 up");
        let Some(source) = open("br0", &tap(), &by_monotonic(), stamps_but(0)) else { return };
        let mode = source.mode().to_string();
        assert!(source.mode().rung.generic() && mode.contains("no stamps by the NIC: "), "{mode}");
        println!("{mode}");
    });
}

#[test]
fn a_driver_that_takes_no_program_leaves_the_usual_one_to_the_generic_hook() {
    in_private_namespace(|| {
        // veth takes a program only where it has as many receive queues as its peer sends on.
        ip("link add tx0 numtxqueues 4 type veth peer name rx0 numrxqueues 1");
        ip("link set tx0 up");
        ip("link set rx0 up");
        let Some(mut source) = open("rx0", &tap(), &by_monotonic(), stamps_but(0)) else { return };
        let mode = source.mode().to_string();
        assert!(source.mode().rung.generic(), "{mode}");
        assert!(
            mode.contains("no stamps by the NIC: the XDP program that asks for them: attaching: "),
            "{mode}"
        );
        assert!(attached().starts_with("`gnomon_xdp`"), "{}", attached());
        let taken = send_and_take(&mut source, 0, 20, 64);
        assert!(taken.iter().all(honest), "{taken:?}");
    });
}

#[test]
fn an_interface_that_is_deleted_takes_the_bound_program_with_it() {
    in_private_namespace(|| {
        veth(1500, 1);
        let Some(mut source) = open("rx0", &tap(), &by_monotonic(), stamps_but(0)) else { return };
        assert!(attached().starts_with("`gnomon_xdp_nic`"), "{}", attached());
        assert!(Sender::new("tx0", false).send(&numbered(0, 64)));
        std::thread::sleep(LATE);
        ip("link del rx0");
        let mut frames = 0;
        let gone = (0..100).find_map(|_| {
            source.wait(Duration::from_millis(100)).unwrap();
            source.drain(64, |batch| frames += batch.len()).err()
        });
        assert!(matches!(gone, Some(CaptureError::InterfaceGone { .. })), "{gone:?}");
        assert_eq!(frames, 1, "what had arrived is handed over first");
        drop(source);
        // One of the same name gets a program of its own.
        veth(1500, 1);
        let Some(source) = open("rx0", &tap(), &by_monotonic(), stamps_but(0)) else { return };
        assert!(source.nic.is_some(), "{}", source.mode());
    });
}

#[test]
fn the_capabilities_of_the_systemd_unit_are_enough_to_bind() {
    in_private_namespace(|| {
        veth(1500, 1);
        if !with_capabilities_of_the_unit() {
            return;
        }
        for asked in [Asked::driver(), Ok(stamps_but(0))] {
            let asked = match asked {
                Ok(asked) => asked,
                Err(why) => return println!("SKIPPED: {why}"),
            };
            let Some(source) = open("rx0", &tap(), &by_monotonic(), asked) else { return };
            assert!(source.nic.is_some(), "{}", source.mode());
        }
    });
}
