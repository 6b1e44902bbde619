//! What is left out of an export, and why. Everything given to an encoder is written or counted here.

use gnomon_flow::{StoredFlow, TimeState};

use crate::format::Format;

/// What an export takes besides finished records of proven time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Records whose time is not proven.
    pub pending: bool,
    /// Records of flows that go on: another with the same id will follow.
    pub interim: bool,
}

/// Why a record is not in an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// No evidence says when it was, and the form has no way to say that.
    NoTime,
    /// Its time is not proven.
    NotProven,
    /// The flow goes on.
    Interim,
    /// Not IP, which the form is about.
    NotIp,
}

impl Left {
    pub const ALL: [Left; 4] = [Left::NoTime, Left::NotProven, Left::Interim, Left::NotIp];

    /// Why `flow` cannot be in an export, if it cannot.
    pub fn of(flow: &StoredFlow, format: Format, accept: Accept) -> Option<Left> {
        // IPFIX counts deltas: a preview would be counted twice.
        if flow.record.is_interim() && (!accept.interim || format == Format::Ipfix) {
            return Some(Left::Interim);
        }
        if flow.time_state != TimeState::Indexed && !accept.pending {
            return Some(Left::NotProven);
        }
        if (flow.first.is_none() || flow.last.is_none()) && !format.takes_no_time() {
            return Some(Left::NoTime);
        }
        (format.is_ip_only() && !flow.record.key.is_ip()).then_some(Left::NotIp)
    }

    fn reason(self) -> &'static str {
        match self {
            Left::NoTime => "have no known time, which this form cannot say",
            Left::NotProven => "have no proven time",
            Left::Interim => "are of flows that go on",
            Left::NotIp => "are not IP, which this form is about",
        }
    }
}

/// How many records were written, and how many left out for which reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub written: u64,
    left: [u64; Left::ALL.len()],
}

impl Tally {
    pub fn leave(&mut self, why: Left) {
        self.left[why as usize] += 1;
    }

    pub fn left(&self, why: Left) -> u64 {
        self.left[why as usize]
    }

    pub fn left_total(&self) -> u64 {
        self.left.iter().sum()
    }

    /// `left out: 3 records have no proven time`; `None` when nothing was.
    pub fn words(&self) -> Option<String> {
        let parts: Vec<String> = Left::ALL
            .into_iter()
            .filter(|why| self.left(*why) > 0)
            .map(|why| format!("{} records {}", self.left(why), why.reason()))
            .collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join("; ")))
    }
}
