//! The thread that looks at the collector's clock: each second, at once when somebody sets it, and now and then at what
//! the fleet says of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{
    AgentVote, Authority, Chronyd, DisruptionWatch, Markers, MonoNs, Settlement, StepEvent, StepStop,
    StepWatch, arbitrate,
};

use super::Timekeeper;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between looks at the fleet, while this machine's own sources prove nothing.
const ASK_FLEET_NS: u64 = 5_000_000_000;

/// What the connected agents' own sources say of the collector's clock.
pub type AskFleet = Box<dyn Fn() -> Vec<AgentVote> + Send>;

/// The running thread.
#[derive(Debug)]
pub struct Watch {
    thread: JoinHandle<()>,
    stop: StepStop,
}

impl Watch {
    pub fn stop(self) {
        self.stop.stop();
        if self.thread.join().is_err() {
            tracing::error!("the clock thread panicked");
        }
    }
}

/// Starts it, after a first look.
///
/// # Errors
/// When the kernel gives no timer or no thread.
pub fn start(keeper: Timekeeper, fleet: AskFleet) -> std::io::Result<Watch> {
    let steps = StepWatch::new()?;
    let stop = steps.stopper();
    let mut work = Work {
        disruptions: DisruptionWatch::new(keeper.clock().as_ref(), Markers::read()),
        chronyd: Chronyd::default(),
        asked: MonoNs(0),
        fleet,
        keeper,
    };
    work.look(false);
    let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
        loop {
            match steps.wait(LOOK_EVERY) {
                Ok(StepEvent::Stopped) => return,
                Ok(event) => work.look(event == StepEvent::Stepped),
                Err(error) => {
                    tracing::error!(%error, "steps of the clock are seen late from now on");
                    std::thread::sleep(LOOK_EVERY);
                    work.look(false);
                }
            }
        }
    })?;
    Ok(Watch { thread, stop })
}

struct Work {
    keeper: Timekeeper,
    fleet: AskFleet,
    disruptions: DisruptionWatch,
    chronyd: Chronyd,
    asked: MonoNs,
}

impl Work {
    fn look(&mut self, stepped: bool) {
        let clock = Arc::clone(self.keeper.clock());
        if let Some(disruption) = self.disruptions.check(clock.as_ref(), &Markers::read()) {
            self.keeper.disrupted(disruption.kind.name());
        }
        let now = clock.monotonic();
        let refreshed = self.keeper.refresh(self.chronyd.daemon(now), stepped);
        self.chronyd.heard(&refreshed.sampled.chrony);
        if now.since(self.asked) >= ASK_FLEET_NS {
            self.asked = now;
            self.ask_fleet();
        }
    }

    fn ask_fleet(&self) {
        if self.keeper.proven_by_itself() {
            self.keeper.settled_by_fleet(None);
            return;
        }
        self.keeper.settled_by_fleet(match arbitrate(false, &(self.fleet)()) {
            Settlement::By { authority: Authority::Agent, collector_off_ns, err_ns } => {
                Some((collector_off_ns, err_ns))
            }
            _ => None,
        });
    }
}
