//! libpcap's compiler, loaded when it is first needed: an agent without a filter needs no libpcap.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{FilterError, Frames, Instruction};
use crate::frame::{FRAME_BYTES_MAX, LinkType};

/// The names of its ABI on Debian and its kin, and elsewhere.
const NAMES: [&CStr; 3] = [c"libpcap.so.0.8", c"libpcap.so.1", c"libpcap.so"];
const ERROR_BYTES: usize = 256;
/// PCAP_NETMASK_UNKNOWN: `ip broadcast` is refused, everything else needs no mask.
const NETMASK_UNKNOWN: c_uint = u32::MAX;

/// PCAP_ERROR_IFACE_NOT_UP, which comes without words.
const IFACE_NOT_UP: c_int = -9;

type Handle = c_void;

#[repr(C)]
struct CompiledProgram {
    length: c_uint,
    instructions: *mut libc::sock_filter,
}

/// The functions that are used, by the signatures of pcap(3pcap).
struct Library {
    open_dead: unsafe extern "C" fn(c_int, c_int) -> *mut Handle,
    create: unsafe extern "C" fn(*const c_char, *mut c_char) -> *mut Handle,
    activate: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile: unsafe extern "C" fn(*mut Handle, *mut CompiledProgram, *const c_char, c_int, c_uint) -> c_int,
    free_code: unsafe extern "C" fn(*mut CompiledProgram),
    error: unsafe extern "C" fn(*mut Handle) -> *const c_char,
    close: unsafe extern "C" fn(*mut Handle),
}

/// Loaded once and never unloaded.
fn library() -> Result<&'static Library, FilterError> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let loaded = LIBRARY.get_or_init(load);
    loaded.as_ref().map_err(|reason| FilterError::NoCompiler { reason: reason.clone() })
}

fn load() -> Result<Library, String> {
    let open = |name: &&CStr| {
        // SAFETY: `name` is a live C string; the library is libpcap's, whose initialisers do nothing but set it up.
        NonNull::new(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) })
    };
    let library = NAMES.iter().find_map(open).ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|name| name.to_string_lossy()).collect();
        format!("none of {} is there", names.join(", "))
    })?;
    let symbol = |name: &CStr| {
        // SAFETY: `library` was just opened and is never closed; `name` is a live C string.
        let symbol = unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) };
        NonNull::new(symbol).map(NonNull::as_ptr).ok_or_else(|| format!("it has no {name:?}"))
    };
    let (open_dead, create, activate) =
        (symbol(c"pcap_open_dead")?, symbol(c"pcap_create")?, symbol(c"pcap_activate")?);
    let (compile, free_code, error, close) = (
        symbol(c"pcap_compile")?,
        symbol(c"pcap_freecode")?,
        symbol(c"pcap_geterr")?,
        symbol(c"pcap_close")?,
    );
    Ok(Library {
        // SAFETY: pcap_open_dead(3pcap) has this signature.
        open_dead: unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, c_int) -> *mut Handle>(open_dead)
        },
        // SAFETY: pcap_create(3pcap) has this signature.
        create: unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, *mut c_char) -> *mut Handle>(
                create,
            )
        },
        // SAFETY: pcap_activate(3pcap) has this signature.
        activate: unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Handle) -> c_int>(activate)
        },
        // SAFETY: pcap_compile(3pcap) has this signature; a bpf_program is laid out as `CompiledProgram` and a bpf_insn
        // as Linux's sock_filter.
        compile: unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(
                    *mut Handle,
                    *mut CompiledProgram,
                    *const c_char,
                    c_int,
                    c_uint,
                ) -> c_int,
            >(compile)
        },
        // SAFETY: pcap_freecode(3pcap) has this signature.
        free_code: unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut CompiledProgram)>(free_code)
        },
        // SAFETY: pcap_geterr(3pcap) has this signature.
        error: unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Handle) -> *const c_char>(error)
        },
        // SAFETY: pcap_close(3pcap) has this signature.
        close: unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Handle)>(close) },
    })
}

/// A handle that is closed when it goes.
struct Pcap {
    library: &'static Library,
    handle: NonNull<Handle>,
}

impl Drop for Pcap {
    fn drop(&mut self) {
        // SAFETY: `handle` came from libpcap, is not closed before, and nobody has it after.
        unsafe { (self.library.close)(self.handle.as_ptr()) }
    }
}

impl Pcap {
    /// For frames of a link type; opens nothing.
    fn of_link(library: &'static Library, link: LinkType) -> Result<Pcap, FilterError> {
        let snaplen = c_int::try_from(FRAME_BYTES_MAX).unwrap_or(c_int::MAX);
        // SAFETY: takes two numbers.
        let handle = unsafe { (library.open_dead)(dlt(link), snaplen) };
        let out_of_memory = || FilterError::NoCompiler { reason: "out of memory".to_owned() };
        NonNull::new(handle).map(|handle| Pcap { library, handle }).ok_or_else(out_of_memory)
    }

    /// For what a packet socket on this interface sees. It must be up.
    fn of_socket(library: &'static Library, interface: &str) -> Result<Pcap, FilterError> {
        let not_now = |reason: &str| {
            let (interface, reason) = (interface.to_owned(), reason.to_owned());
            FilterError::NotNow { interface, reason }
        };
        let name = CString::new(interface).map_err(|_| not_now("its name has a NUL byte"))?;
        let mut message = [0 as c_char; ERROR_BYTES];
        // SAFETY: `name` is a live C string, `message` has the 256 bytes of PCAP_ERRBUF_SIZE.
        let handle = unsafe { (library.create)(name.as_ptr(), message.as_mut_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| not_now("out of memory"))?;
        let pcap = Pcap { library, handle };
        // SAFETY: `handle` was created and not yet activated.
        let result = unsafe { (library.activate)(pcap.handle.as_ptr()) };
        match result {
            // Above 0 are warnings.
            0.. => Ok(pcap),
            IFACE_NOT_UP => Err(not_now("it is down")),
            _ => Err(not_now(&pcap.error())),
        }
    }

    fn error(&self) -> String {
        // SAFETY: `handle` is open; the answer is a C string inside of it, or null.
        let message = unsafe { (self.library.error)(self.handle.as_ptr()) };
        if message.is_null() {
            return "no reason given".to_owned();
        }
        // SAFETY: not null, and the string lives as long as the handle.
        unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
    }

    fn compile(&self, filter: &CStr) -> Result<Vec<Instruction>, String> {
        const OPTIMISE: c_int = 1;
        let mut program = CompiledProgram { length: 0, instructions: std::ptr::null_mut() };
        // SAFETY: `handle` is open, `program` is written to, `filter` is a live C string.
        let result = unsafe {
            (self.library.compile)(
                self.handle.as_ptr(),
                &raw mut program,
                filter.as_ptr(),
                OPTIMISE,
                NETMASK_UNKNOWN,
            )
        };
        if result != 0 {
            return Err(self.error());
        }
        let compiled = if program.instructions.is_null() {
            &[]
        } else {
            // SAFETY: a successful pcap_compile leaves `length` instructions there, until they are freed below.
            unsafe { std::slice::from_raw_parts(program.instructions, program.length as usize) }
        };
        let instructions = compiled
            .iter()
            .map(|instruction| Instruction {
                code: instruction.code,
                jump_true: instruction.jt,
                jump_false: instruction.jf,
                k: instruction.k,
            })
            .collect();
        // SAFETY: `program` is what pcap_compile made, and its instructions are copied.
        unsafe { (self.library.free_code)(&raw mut program) };
        Ok(instructions)
    }
}

pub(super) fn compile(filter: &str, frames: Frames<'_>) -> Result<Vec<Instruction>, FilterError> {
    // Old versions keep the compiler's state in globals.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let library = library()?;
    let refused = |reason| FilterError::Refused { filter: filter.to_owned(), reason };
    let text = CString::new(filter).map_err(|_| refused("it has a NUL byte".to_owned()))?;
    let pcap = match frames {
        Frames::OfLink(link) => Pcap::of_link(library, link)?,
        Frames::OfSocket(interface) => Pcap::of_socket(library, interface)?,
    };
    pcap.compile(&text).map_err(refused)
}

/// The number by which libpcap calls a link type on Linux.
fn dlt(link: LinkType) -> c_int {
    const DLT_RAW: c_int = 12;
    match link {
        LinkType::RawIp => DLT_RAW,
        link => c_int::from(link.linktype()),
    }
}
