//! The XDP program that asks the driver for the NIC's stamps, loaded for one interface.
//!
//! A driver answers by a function of the kernel (kernel: networking/xdp-rx-metadata), which only a program that is bound to
//! its interface may call (BPF_F_XDP_DEV_BOUND_ONLY, linux/bpf.h). aya loads no such programs, so this one goes to bpf(2)
//! from here, with the maps that aya made.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use aya::Btf;
use aya_obj::btf::BtfKind;
use aya_obj::generated::bpf_insn;

use crate::nic::NoStamps;

const NAME: &str = "gnomon_xdp_nic";
/// The kernel calls its functions from programs only that say they are under the GPL too, by one of a few strings. Their
/// source is: see the head of bpf/gnomon_xdp.c.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";
const FUNCTION: &str = "bpf_xdp_metadata_rx_timestamp";

/// A call (BPF_JMP | BPF_CALL), and the number that stands for the function in bpf/gnomon_xdp.c.
const CALL: u8 = 0x85;
const PLACEHOLDER: i32 = 0x7fff_0001;
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;

const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;

/// What the verifier says is kept up to here.
const LOG_BYTES: usize = 64 << 10;

/// Whom the program asks for a frame's stamp.
pub(super) enum Asked {
    /// The driver, by the kernel's function with this type id.
    Driver(u32),
    /// A function at the program's end, in place of the driver's.
    #[cfg(test)]
    Played(Vec<bpf_insn>),
}

impl Asked {
    /// # Errors
    /// `NoFunction` on kernels before 6.3 and those that do not describe their types (/sys/kernel/btf).
    pub(super) fn driver() -> Result<Asked, NoStamps> {
        let types = Btf::from_sys_fs().map_err(|error| NoStamps::NoFunction(error.to_string()))?;
        match types.id_by_type_name_kind(FUNCTION, BtfKind::Func) {
            Ok(id) => Ok(Asked::Driver(id)),
            Err(error) => Err(NoStamps::NoFunction(error.to_string())),
        }
    }

    /// The program with it where the call is.
    fn put_into(self, mut program: Vec<bpf_insn>) -> Result<Vec<bpf_insn>, String> {
        let at = program
            .iter()
            .position(|one| one.code == CALL && one.src_reg() == 0 && one.imm == PLACEHOLDER)
            .ok_or("the object has no call to replace")?;
        let call = &mut program[at];
        match self {
            Asked::Driver(id) => {
                call.set_src_reg(BPF_PSEUDO_KFUNC_CALL);
                call.imm = i32::try_from(id).map_err(|error| error.to_string())?;
            }
            #[cfg(test)]
            Asked::Played(function) => {
                const BPF_PSEUDO_CALL: u8 = 1;
                call.set_src_reg(BPF_PSEUDO_CALL);
                let ahead = program.len() - at - 1;
                program[at].imm = i32::try_from(ahead).map_err(|error| error.to_string())?;
                program.extend(function);
            }
        }
        Ok(program)
    }
}

/// The instructions of the committed object, with the maps of `maps` in them.
fn instructions(object: &[u8], maps: &[(&str, RawFd)]) -> Result<Vec<bpf_insn>, String> {
    let mut object = aya_obj::Object::parse(object).map_err(|error| error.to_string())?;
    let described = object.maps.clone();
    let mut found = Vec::with_capacity(described.len());
    for (name, map) in &described {
        let (_, fd) =
            maps.iter().find(|(other, _)| other == name).ok_or_else(|| format!("no map `{name}`"))?;
        found.push((name.as_str(), *fd, map));
    }
    object.relocate_maps(found.into_iter(), &HashSet::new()).map_err(|error| error.to_string())?;
    let function = object
        .programs
        .get(NAME)
        .and_then(|program| object.functions.get(&program.function_key()))
        .ok_or_else(|| format!("the object has no program `{NAME}`"))?;
    Ok(function.instructions.clone())
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h); the kernel takes the rest as zeroes.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads the program for the interface `index`, with the maps of the program it stands in for.
///
/// # Errors
/// What the kernel says and, where it is the verifier, its last word.
pub(super) fn load(
    object: &[u8],
    maps: &[(&str, RawFd)],
    index: u32,
    asked: Asked,
) -> Result<OwnedFd, String> {
    let program = asked.put_into(instructions(object, maps)?)?;
    match load_once(&program, index, BPF_F_XDP_HAS_FRAGS, &mut []) {
        Ok(fd) => return Ok(fd),
        // Some kernels bind no program that takes frames of several buffers. Without, it attaches where frames fit one.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(error.to_string()),
    }
    let mut log = vec![0_u8; LOG_BYTES];
    load_once(&program, index, 0, &mut log).map_err(|error| match last_word(&log) {
        Some(word) => format!("{error}: {word}"),
        None => error.to_string(),
    })
}

fn load_once(program: &[bpf_insn], index: u32, flags: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_XDP: u32 = 37;

    let mut request = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).unwrap_or(0),
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: BPF_F_XDP_DEV_BOUND_ONLY | flags,
        prog_name: [0; 16],
        prog_ifindex: index,
        expected_attach_type: BPF_XDP,
    };
    request.prog_name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    // SAFETY: the kernel reads `size_of::<ProgLoad>()` bytes of a live struct, the instructions and the licence it points
    // at, and writes at most `log_size` bytes of the log; all of them outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const request, size_of::<ProgLoad>()) };
    let Ok(fd) = i32::try_from(fd) else { return Err(io::Error::other("bpf(2) returned no descriptor")) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just returned by the kernel (with close-on-exec set), owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The last line of the verifier's that is no statistics.
fn last_word(log: &[u8]) -> Option<String> {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    text.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::afxdp::program::OBJECT;

    #[test]
    fn the_call_and_the_maps_are_replaced_and_nothing_else_is() {
        let maps = [("control", 71), ("counters", 72), ("sockets", 73)];
        let before = instructions(OBJECT, &maps).unwrap();
        let fds: Vec<i32> =
            before.iter().filter(|one| one.code == 0x18 && one.src_reg() == 1).map(|one| one.imm).collect();
        assert_eq!(fds, [71, 72, 73]);
        let after = Asked::Driver(4321).put_into(before.clone()).unwrap();
        assert_eq!(before.len(), after.len());
        let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a.imm != b.imm).collect();
        let [(_, call)] = changed[..] else { panic!("{} instructions differ", changed.len()) };
        assert_eq!((call.code, call.src_reg(), call.off, call.imm), (CALL, BPF_PSEUDO_KFUNC_CALL, 0, 4321));
        assert!(Asked::Driver(4321).put_into(after).is_err(), "there is one call");
    }

    #[test]
    fn a_map_that_is_missing_is_an_error() {
        let error = instructions(OBJECT, &[("control", 71), ("counters", 72)]).unwrap_err();
        assert_eq!(error, "no map `sockets`");
    }

    #[test]
    fn the_verifiers_last_word_is_found() {
        let log = b"0: R1=ctx()\ncannot call\nprocessed 7 insns (limit 1000000)\n\0\0rest";
        assert_eq!(last_word(log).as_deref(), Some("cannot call"));
        assert_eq!(last_word(&[0; 4]), None);
        assert_eq!(last_word(b""), None);
    }
}
