//! Down the ladder: zero copy → copy in the driver → the generic hook, each with frames that may span buffers and without,
//! until the kernel agrees on every queue.

use std::io;
use std::time::Duration;

use super::bound::Asked;
use super::program::{self, Hook, Program};
use super::socket::{BindMode, XdpSocket, errno_of};
use super::umem;
use crate::error::CaptureError;
use crate::interface::{self, Interface};
use crate::mode::{Refusal, Rung};
use crate::nic::NoStamps;
use crate::options::{Options, Queues};

const RUNGS: [Rung; 6] = [
    Rung::ZeroCopyMultiBuffer,
    Rung::ZeroCopy,
    Rung::CopyMultiBuffer,
    Rung::Copy,
    Rung::GenericMultiBuffer,
    Rung::Generic,
];

/// A socket that was just closed holds its queue until the kernel's deferred work ran.
const BUSY_RETRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Fewer descriptors than one NAPI poll hands over lose frames at any rate.
const QUEUE_FRAMES_MIN: u32 = 64;

/// The rung that held.
pub(super) struct Bound {
    pub(super) program: Program,
    pub(super) rung: Rung,
    pub(super) sockets: Vec<(u32, XdpSocket)>,
    pub(super) sizes: Sizes,
}

/// Descriptors and buffers of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) frames: u32,
    pub(super) chunk_bytes: u32,
}

pub(super) fn sizes(mtu: u32, queues: u32, options: &Options) -> Sizes {
    let chunk_bytes = umem::chunk_bytes_for(mtu);
    let by_memory = u32::try_from(options.umem_bytes / u64::from(chunk_bytes)).unwrap_or(u32::MAX);
    let each = (options.ring_frames.min(by_memory) / queues.max(1)).max(QUEUE_FRAMES_MIN);
    // The power of two below: rings have no other size.
    Sizes { frames: 1 << each.ilog2(), chunk_bytes }
}

/// Binds one queue, waiting for a former socket to let go of it.
pub(super) fn bind(index: u32, queue: u32, sizes: Sizes, rung: Rung) -> io::Result<XdpSocket> {
    let mode = BindMode { zero_copy: rung.zero_copy(), multi_buffer: rung.multi_buffer() };
    let mut tries = 0;
    loop {
        match XdpSocket::bind(index, queue, sizes.frames, sizes.chunk_bytes, mode) {
            Err(error) if errno_of(&error) == Some(libc::EBUSY) && tries < BUSY_RETRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Tries every rung; `Ok(None)` when none held. What was refused is written down. `stamps`: have the frames bring the NIC's,
/// where that can be; the program knows whether they do.
///
/// # Errors
/// `Occupied` when another XDP program is attached: no other rung would help.
pub(super) fn climb_down(
    interface: &Interface,
    options: &Options,
    stamps: Option<Asked>,
    refused: &mut Vec<Refusal>,
) -> Result<Option<Bound>, CaptureError> {
    // A driver may use more queues once XDP is attached.
    let most = interface.queues_max.max(interface.queues).clamp(1, 4096);
    let pass_unbound = matches!(options.queues, Queues::Only(_));
    let mut program = match Program::load(most, pass_unbound) {
        Ok(program) => program,
        Err(error) => {
            refused.push(Refusal { rung: RUNGS[0], reason: error.to_string() });
            return Ok(None);
        }
    };
    if let Some(asked) = stamps {
        program.bind_to(interface.index, asked);
    }
    let mut attached: Option<Hook> = None;
    let mut hook_refused: Option<Hook> = None;
    for rung in RUNGS {
        let hook = if rung.generic() { Hook::Generic } else { Hook::Driver };
        if hook_refused == Some(hook) {
            continue;
        }
        if attached != Some(hook) {
            program.detach();
            attached = None;
            if hook == Hook::Generic {
                program.unbind(NoStamps::GenericHook);
            }
            let mut result = attach(&mut program, interface, hook)?;
            if let Err(error) = &result
                && program.bound()
            {
                program.unbind(NoStamps::Program(format!("attaching: {error}")));
                result = attach(&mut program, interface, hook)?;
            }
            if let Err(error) = result {
                hook_refused = Some(hook);
                refused.push(Refusal { rung, reason: format!("attaching the XDP program: {error}") });
                continue;
            }
            attached = Some(hook);
        }
        // Asked only now: attaching may have raised the number of queues in use.
        let queues = queues(interface, options);
        let sizes = sizes(interface.mtu, u32::try_from(queues.len()).unwrap_or(1), options);
        if !rung.multi_buffer() && !umem::fits(interface.mtu, sizes.chunk_bytes) {
            let reason =
                format!("frames of MTU {} do not fit one buffer of {} B", interface.mtu, sizes.chunk_bytes);
            refused.push(Refusal { rung, reason });
            continue;
        }
        match bind_all(interface.index, &queues, sizes, rung, &mut program) {
            Ok(sockets) => return Ok(Some(Bound { program, rung, sockets, sizes })),
            Err(reason) => refused.push(Refusal { rung, reason }),
        }
    }
    Ok(None)
}

fn queues(interface: &Interface, options: &Options) -> Vec<u32> {
    match &options.queues {
        Queues::Only(queues) => queues.clone(),
        Queues::All => {
            (0..interface::queues_now(&interface.name).unwrap_or(interface.queues).max(1)).collect()
        }
    }
}

fn bind_all(
    index: u32,
    queues: &[u32],
    sizes: Sizes,
    rung: Rung,
    program: &mut Program,
) -> Result<Vec<(u32, XdpSocket)>, String> {
    let mut sockets = Vec::with_capacity(queues.len());
    for queue in queues {
        let socket = bind(index, *queue, sizes, rung).map_err(|error| error.to_string())?;
        sockets.push((*queue, socket));
    }
    // All or none: with some queues directed a later refusal would have lost frames.
    for (queue, socket) in &sockets {
        program.direct(*queue, socket).map_err(|error| error.to_string())?;
    }
    Ok(sockets)
}

/// The inner error is one the next rung may not meet.
fn attach(program: &mut Program, interface: &Interface, hook: Hook) -> Result<io::Result<()>, CaptureError> {
    let mut tries = 0;
    loop {
        let Err(error) = program.attach(interface.index, hook) else { return Ok(Ok(())) };
        if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) {
            return Ok(Err(error));
        }
        // Our own last link may not be gone yet; somebody else's stays.
        if tries == BUSY_RETRIES {
            return match interface::xdp_program(interface.index) {
                Some(id) => Err(CaptureError::Occupied {
                    name: interface.name.clone(),
                    program: program::name_of(id),
                }),
                None => Ok(Err(error)),
            };
        }
        tries += 1;
        std::thread::sleep(BUSY_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_share_the_budget_and_are_powers_of_two() {
        let options = Options::default();
        assert_eq!(sizes(1500, 1, &options), Sizes { frames: 32_768, chunk_bytes: 2048 });
        assert_eq!(sizes(1500, 3, &options), Sizes { frames: 8192, chunk_bytes: 2048 });
        assert_eq!(sizes(9000, 1, &options), Sizes { frames: 16_384, chunk_bytes: 4096 });
        assert_eq!(sizes(1500, 4096, &options).frames, QUEUE_FRAMES_MIN);
    }
}
