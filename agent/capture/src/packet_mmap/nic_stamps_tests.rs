//! Frames that a NIC has stamped, through the real kernel: it hands frames with such stamps to an interface when asked to
//! run a program over them (BPF_PROG_TEST_RUN), as if a driver had. Only the NIC's clock is played.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gnomon_clock::KernelClock;

use super::*;
use crate::frame::Stamp;
use crate::network::{ETHERTYPE, in_private_namespace, veth};
use crate::played_nic::PlayedNic;

/// A NIC that counts from 2001 on and 60 ppm too fast.
fn nic_at(raw: RawNs) -> i64 {
    let ns = raw.0.cast_signed();
    1_000_000_000_000_000_000 + ns + ns / 1_000_000 * 60
}

/// bpf(2) with a request of `words`.
fn bpf(command: libc::c_int, words: &[u64]) -> io::Result<i64> {
    // SAFETY: the request is `words`, which outlive the call; what it points at is the caller's and outlives it too.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A traffic-control program that lets a copy of each frame come in on an interface.
struct Driver(OwnedFd);

impl Driver {
    fn of(index: u32) -> io::Result<Driver> {
        const BPF_PROG_LOAD: libc::c_int = 5;
        const BPF_PROG_TYPE_SCHED_CLS: u64 = 3;
        let program: [u64; 5] = [
            0x02b7 | u64::from(index) << 32, // r2 = index
            0x03b7 | 1 << 32,                // r3 = BPF_F_INGRESS
            0x0085 | 13 << 32,               // call bpf_clone_redirect
            0x00b7,                          // r0 = 0
            0x0095,                          // exit
        ];
        let instructions = BPF_PROG_TYPE_SCHED_CLS | (program.len() as u64) << 32;
        let request = [instructions, program.as_ptr() as u64, c"GPL".as_ptr() as u64, 0, 0, 0];
        let fd = bpf(BPF_PROG_LOAD, &request)? as i32;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Driver(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `stamp_ns`: by the NIC, 0 for none.
    fn receive(&self, frame: &[u8], stamp_ns: i64) -> io::Result<()> {
        const BPF_PROG_TEST_RUN: libc::c_int = 10;
        // struct __sk_buff ends with the stamp; a field that is not 0 is taken over, most must not be.
        let mut context = [0_u64; 24];
        context[23] = stamp_ns.cast_unsigned();
        let lengths = |first: usize, second: usize| first as u64 | (second as u64) << 32;
        let request = [
            self.0.as_raw_fd() as u64,
            lengths(frame.len(), 0),
            frame.as_ptr() as u64,
            0,
            1, // once
            lengths(size_of_val(&context), 0),
            context.as_ptr() as u64,
            0,
            0,
            0,
        ];
        bpf(BPF_PROG_TEST_RUN, &request).map(drop)
    }
}

/// The stamp of the next frame.
fn next(source: &mut PacketMmap) -> Stamp {
    for _ in 0..200 {
        let mut stamp = None;
        source.drain(1, |frames| stamp = frames.first().map(|frame| frame.stamp)).unwrap();
        if let Some(stamp) = stamp {
            return stamp;
        }
        source.wait(Duration::from_millis(10)).unwrap();
    }
    panic!("no frame came");
}

/// As a worker does on a quiet link.
fn watch_for(source: &mut PacketMmap, ms: u64) {
    let begun = KernelClock.monotonic();
    while KernelClock.monotonic().since(begun) < ms * 1_000_000 {
        source.drain(64, |_| panic!("nobody sends")).unwrap();
        source.wait(Duration::from_millis(10)).unwrap();
    }
}

#[test]
fn frames_get_the_stamp_of_the_nic_where_it_made_one_and_its_clock_can_be_believed() {
    in_private_namespace(|| {
        veth(1500, 1);
        let interface = crate::interface::describe("rx0").unwrap();
        let clock = Arc::new(PlayedNic { counts: || nic_at(KernelClock.raw()), set_ns: AtomicI64::new(0) });
        let nic_at = |raw| nic_at(raw) + clock.set_ns.load(Ordering::Relaxed);
        let mut source =
            PacketMmap::open(&interface, &Options::default(), Arc::clone(&clock) as _, Vec::new()).unwrap();
        let device = File::open("/dev/null").unwrap();
        source.nic = Some(NicClock::begin(device, &*clock).unwrap());
        source.socket.stamps_of_nic().unwrap();
        let driver = match Driver::of(interface.index) {
            Ok(driver) => driver,
            Err(error) => return println!("SKIPPED: bpf(2): {error}"),
        };
        let mut frame = [0_u8; 60];
        frame[12..14].copy_from_slice(&ETHERTYPE);
        let receive = |source: &mut PacketMmap, stamp: &dyn Fn(RawNs) -> i64| {
            let now = KernelClock.raw();
            driver.receive(&frame, stamp(now)).unwrap();
            (now, next(source))
        };
        watch_for(&mut source, 400);

        // It was on the wire 7 ms before the driver handed it over.
        let waited = 7_000_000;
        let (now, stamp) = receive(&mut source, &|now| nic_at(RawNs(now.0 - waited)));
        let truth = now.0 - waited;
        assert!(stamp.err_ns < 1_000_000, "{stamp:?}");
        assert!(stamp.raw.0.abs_diff(truth) <= u64::from(stamp.err_ns), "{stamp:?}, truth {truth}");

        // The kernel stamps what the NIC did not.
        let (now, stamp) = receive(&mut source, &|_| 0);
        assert!(stamp.err_ns < 1_000_000 && stamp.raw >= now, "{stamp:?}, handed over at {now:?}");

        // Its clock is set: for as long as that is remembered no stamp of it counts, and the bound says so.
        clock.set_ns.store(40_000_000, Ordering::Relaxed);
        let (now, stamp) = receive(&mut source, &|now| nic_at(now));
        assert!(stamp.raw >= now && stamp.err_ns > 1_000_000, "{stamp:?}");
        watch_for(&mut source, 1_800);
        let (now, stamp) = receive(&mut source, &|now| nic_at(RawNs(now.0 - waited)));
        let truth = now.0 - waited;
        assert!(stamp.err_ns < 1_000_000, "{stamp:?}");
        assert!(stamp.raw.0.abs_diff(truth) <= u64::from(stamp.err_ns), "{stamp:?}, truth {truth}");
    });
}

#[test]
fn an_interface_without_a_clock_says_so_and_captures() {
    in_private_namespace(|| {
        veth(1500, 1);
        let interface = crate::interface::describe("rx0").unwrap();
        let options = Options { hardware_stamps: true, ..Options::default() };
        let source = PacketMmap::open(&interface, &options, Arc::new(KernelClock), Vec::new()).unwrap();
        let mode = source.mode().to_string();
        assert!(mode.contains("no stamps by the NIC: the driver offers none"), "{mode}");
    });
}
