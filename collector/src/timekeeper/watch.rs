//! The thread that looks at the collector's clock: each second, at once when somebody sets it, and now and then at what
//! the fleet says of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{Chronyd, DisruptionWatch, Markers, MonoNs, StepEvent, StepStop, StepWatch};

use super::{Said, Timekeeper};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between looks at the fleet.
const ASK_FLEET_NS: u64 = 5_000_000_000;

/// What the connected agents' own sources say of the collector's clock.
pub type AskFleet = Box<dyn Fn() -> Vec<Said> + Send>;

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
            self.keeper.hear_fleet((self.fleet)());
        }
    }
}
