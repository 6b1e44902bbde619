//! The XDP program: loaded from the committed object, attached by a bpf_link, kept alive by heartbeats.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::{Map, MapData, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::{EbpfLoader, Pod};
use gnomon_clock::{Clock, KernelClock};

use crate::error::CaptureError;
use crate::mapping::Mapping;
use crate::nic::NoStamps;

use super::bound::{self, Asked};

/// Made from bpf/gnomon_xdp.c by bpf/build.sh; a test checks that they belong together.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/gnomon_xdp.o");

/// How long the agent may be silent before frames go to the host.
const STALE_NS: u64 = 1_000_000_000;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// `struct control` of the program.
const HEARTBEAT_AT: usize = 0;
const STALE_AT: usize = 8;
const QUEUES_AT: usize = 16;
const ACTION_AT: usize = 20;
/// An array map is mapped in pages.
const CONTROL_BYTES: usize = 4096;

/// `struct counters` of the program, one a queue and CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) redirected: u64,
    pub(super) no_socket: u64,
    pub(super) passed: u64,
}

// SAFETY: three u64 without padding; every bit pattern is valid.
unsafe impl Pod for Counters {}

/// Where the program hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before an skb exists.
    Driver,
    /// After the skb was built: works with every driver, slower than AF_PACKET.
    Generic,
}

/// The link that holds the program on its interface. The kernel detaches it when the last descriptor is closed, however
/// the process ends; an attachment by netlink would outlive a SIGKILL, so there is none.
pub(super) struct Attachment {
    _link: OwnedFd,
}

/// Whether frames bring the NIC's stamps.
enum Stamps {
    NotWanted,
    /// The program that stands in for the other in the driver's hook.
    Bound(OwnedFd),
    No(NoStamps),
}

/// A loaded program, its maps, and while attached its link.
pub(super) struct Program {
    // The link goes first: no frame is redirected into sockets that are being closed.
    attachment: Option<Attachment>,
    program: aya::Ebpf,
    stamps: Stamps,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, Counters>,
    control: Mapping,
    _control_map: Map,
    /// Descriptors of the three, by name.
    maps: [(&'static str, RawFd); 3],
    queues: u32,
    monotonic_offset_ns: i64,
}

fn failed(what: &'static str) -> impl Fn(&dyn std::error::Error) -> CaptureError {
    move |error| {
        // The chain holds the errno, and the verifier's words.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        CaptureError::Bpf { what, message }
    }
}

impl Program {
    /// `queues`: the most the interface can have. `pass_unbound`: frames on a queue without a socket go to the host.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN, and on kernels before 5.11.
    pub(super) fn load(queues: u32, pass_unbound: bool) -> Result<Program, CaptureError> {
        let loading = failed("loading the XDP program");
        let mut program = EbpfLoader::new()
            .map_max_entries("sockets", queues)
            .map_max_entries("counters", queues + 1)
            .load(OBJECT)
            .map_err(|error| loading(&error))?;
        let missing = |name: &str| CaptureError::Bpf {
            what: "loading the XDP program",
            message: format!("the object has no map or program `{name}`"),
        };
        let xdp: &mut Xdp = program
            .program_mut("gnomon_xdp")
            .ok_or_else(|| missing("gnomon_xdp"))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| loading(&error))?;
        xdp.load().map_err(|error| loading(&error))?;
        let mut take = |name: &str| program.take_map(name).ok_or_else(|| missing(name));
        let (sockets, counters, control_map) = (take("sockets")?, take("counters")?, take("control")?);
        let (Map::XskMap(first), Map::PerCpuArray(second), Map::Array(data)) =
            (&sockets, &counters, &control_map)
        else {
            return Err(missing("sockets, counters or control"));
        };
        let maps = [("sockets", first), ("counters", second), ("control", data)]
            .map(|(name, data)| (name, data.fd().as_fd().as_raw_fd()));
        let control = Mapping::of_fd(data.fd().as_fd(), CONTROL_BYTES, 0)
            .map_err(|error| CaptureError::system("mapping the XDP program's control map", error))?;
        let sockets = XskMap::try_from(sockets).map_err(|error| loading(&error))?;
        let counters = PerCpuArray::try_from(counters).map_err(|error| loading(&error))?;
        let program = Program {
            attachment: None,
            program,
            stamps: Stamps::NotWanted,
            sockets,
            counters,
            control,
            _control_map: control_map,
            maps,
            queues,
            monotonic_offset_ns: monotonic_offset_ns(),
        };
        program.word64(STALE_AT).store(STALE_NS, Ordering::Relaxed);
        program.word32(QUEUES_AT).store(queues, Ordering::Relaxed);
        let action = if pass_unbound { XDP_PASS } else { XDP_DROP };
        program.word32(ACTION_AT).store(action, Ordering::Relaxed);
        Ok(program)
    }

    /// Loads the program that asks for the NIC's stamps too, for one interface. Where that cannot be, this one serves.
    pub(super) fn bind_to(&mut self, index: u32, asked: Asked) {
        self.stamps = match bound::load(OBJECT, &self.maps, index, asked) {
            Ok(fd) => Stamps::Bound(fd),
            Err(error) => Stamps::No(NoStamps::Program(error)),
        };
    }

    /// Goes on without the NIC's stamps, if it had them.
    pub(super) fn unbind(&mut self, why: NoStamps) {
        if self.bound() {
            self.stamps = Stamps::No(why);
        }
    }

    pub(super) fn bound(&self) -> bool {
        matches!(self.stamps, Stamps::Bound(_))
    }

    /// Why frames do not bring the NIC's stamps though they were asked for.
    pub(super) fn no_stamps(&self) -> Option<&NoStamps> {
        match &self.stamps {
            Stamps::No(why) => Some(why),
            Stamps::NotWanted | Stamps::Bound(_) => None,
        }
    }

    fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` yields an aligned pointer inside the mapping, which lives as long as `self`; the program only
        // loads this word whole.
        unsafe { AtomicU64::from_ptr(self.control.at::<u64>(at)) }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.control.at::<u32>(at)) }
    }

    /// Attaches by a bpf_link, or not at all.
    ///
    /// # Errors
    /// EBUSY or EEXIST when another program is there; EOPNOTSUPP, ERANGE or EINVAL when this hook cannot be had.
    pub(super) fn attach(&mut self, index: u32, hook: Hook) -> io::Result<()> {
        const BPF_LINK_CREATE: libc::c_long = 28;
        const BPF_XDP: u32 = 37;
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

        /// The head of `union bpf_attr` for BPF_LINK_CREATE (linux/bpf.h); the kernel takes the rest as zeroes.
        #[repr(C)]
        struct LinkCreate {
            prog_fd: u32,
            target_ifindex: u32,
            attach_type: u32,
            flags: u32,
        }

        // aya would attach by netlink when this fails with EINVAL, silently and beyond our death.
        let program = match (&self.stamps, self.program.program("gnomon_xdp")) {
            (Stamps::Bound(fd), _) => fd.as_fd(),
            (_, Some(aya::programs::Program::Xdp(xdp))) => {
                xdp.fd().map_err(|error| io::Error::other(error.to_string()))?.as_fd()
            }
            _ => return Err(io::Error::other("the XDP program is not loaded")),
        };
        let request = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: match hook {
                Hook::Driver => XDP_FLAGS_DRV_MODE,
                Hook::Generic => XDP_FLAGS_SKB_MODE,
            },
        };
        // SAFETY: the kernel reads `size_of::<LinkCreate>()` bytes of a live struct.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const request, size_of::<LinkCreate>())
        };
        let Ok(fd) = i32::try_from(fd) else { return Err(io::Error::other("bpf(2) returned no descriptor")) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just returned by the kernel (with close-on-exec set), owned by nobody else.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        self.attachment = Some(Attachment { _link: link });
        Ok(())
    }

    pub(super) fn detach(&mut self) {
        self.attachment = None;
    }

    /// Directs a queue's frames to a socket that is bound to it.
    pub(super) fn direct(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<(), CaptureError> {
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|error| failed("directing a queue to its AF_XDP socket")(&error))
    }

    /// Says that the agent lives. The kernel's own clock and not an injected one: the program compares it with its own.
    pub(super) fn beat(&self) {
        let now = KernelClock.monotonic().0.saturating_add_signed(-self.monotonic_offset_ns);
        self.word64(HEARTBEAT_AT).store(now, Ordering::Relaxed);
    }

    /// The most queues the maps have room for.
    pub(super) fn queues(&self) -> u32 {
        self.queues
    }

    /// The counters of a queue over all CPUs; of `queues()`: of all frames beyond.
    pub(super) fn counters(&self, queue: u32) -> Counters {
        let Ok(values) = self.counters.get(&queue, 0) else { return Counters::default() };
        values.iter().fold(Counters::default(), |sum, one| Counters {
            redirected: sum.redirected + one.redirected,
            no_socket: sum.no_socket + one.no_socket,
            passed: sum.passed + one.passed,
        })
    }
}

/// What CLOCK_MONOTONIC of this time namespace adds to the kernel's: `monotonic <seconds> <nanoseconds>`
/// (time_namespaces(7)). Zero outside of one.
fn monotonic_offset_ns() -> i64 {
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    parse_monotonic_offset(&text).unwrap_or(0)
}

fn parse_monotonic_offset(text: &str) -> Option<i64> {
    let line = text.lines().find(|line| line.starts_with("monotonic"))?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i64>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Name and id of a loaded program, for people.
pub(super) fn name_of(id: u32) -> String {
    let name = aya::programs::loaded_programs()
        .flatten()
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    match name {
        Some(name) => format!("`{name}`, id {id}"),
        None => format!("id {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_committed_object_is_built_from_the_committed_source() {
        let version = Command::new("clang").arg("--version").output();
        let is_14 = version.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .next()
                .is_some_and(|line| line.contains("version 14."))
        });
        if !is_14 {
            println!("SKIPPED: no clang 14 here to rebuild bpf/gnomon_xdp.o with");
            return;
        }
        let out = std::env::temp_dir().join(format!("gnomon_xdp-{}.o", std::process::id()));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/build.sh");
        let status = Command::new(script).arg(&out).status().unwrap();
        let built = std::fs::read(&out);
        let _ = std::fs::remove_file(&out);
        assert!(status.success());
        assert!(
            built.unwrap() == OBJECT,
            "bpf/gnomon_xdp.o is stale: run agent/capture/bpf/build.sh and commit it"
        );
    }

    #[test]
    fn time_namespace_offsets_are_read() {
        assert_eq!(
            parse_monotonic_offset("monotonic           0         0\nboottime            0         0\n"),
            Some(0)
        );
        assert_eq!(parse_monotonic_offset("monotonic  -2  500\nboottime 0 0\n"), Some(-1_999_999_500));
        assert_eq!(parse_monotonic_offset(""), None);
    }
}
