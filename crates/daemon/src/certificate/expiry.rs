//! That a certificate will end is said before it does: 30, 7 and 1 day before, and when it has.

use super::Certificate;

const DAY: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Month,
    Week,
    Day,
    Ended,
}

/// What was said of one certificate file; another certificate in it begins anew.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    said: Option<([u8; 32], Stage)>,
}

impl Expiry {
    /// What there is to say at `now`, once each.
    pub fn look(&mut self, certificate: &Certificate, now_unix_s: i64) -> Option<String> {
        let left = certificate.not_after_unix_s.saturating_sub(now_unix_s);
        let stage = match left {
            ..0 => Stage::Ended,
            left if left <= DAY => Stage::Day,
            left if left <= 7 * DAY => Stage::Week,
            left if left <= 30 * DAY => Stage::Month,
            _ => return None,
        };
        let known = self.said.filter(|(fingerprint, _)| *fingerprint == certificate.fingerprint);
        if known.is_some_and(|(_, said)| said >= stage) {
            return None;
        }
        self.said = Some((certificate.fingerprint, stage));
        let end = certificate.end();
        Some(match stage {
            Stage::Ended => format!("{certificate} has expired: it was good until {end}"),
            _ => format!("{certificate} ends in {} days, on {end}: put a new one in its place", left / DAY),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_in_time_and_once() {
        let certificate = Certificate {
            name: "web1".to_owned(),
            role: None,
            fingerprint: [1; 32],
            not_before_unix_s: 0,
            not_after_unix_s: 100 * DAY,
        };
        let mut expiry = Expiry::default();
        let mut look = |day: i64| expiry.look(&certificate, day * DAY).unwrap_or_default();
        assert_eq!(look(60), "");
        assert!(look(71).contains("ends in 29 days") && look(72).is_empty());
        assert!(look(94).contains("ends in 6 days") && look(95).is_empty());
        assert!(look(99).contains("ends in 1 days"));
        assert!(look(101).contains("has expired") && look(200).is_empty());
        let renewed = Certificate { fingerprint: [2; 32], not_after_unix_s: 205 * DAY, ..certificate };
        assert!(expiry.look(&renewed, 200 * DAY).unwrap().contains("ends in 5 days"));
    }
}
