//! What an intrusion detection system said of a flow, on its way from an agent to the records it is about.

use std::net::IpAddr;

use gnomon_clock::RawNs;

use crate::attribute::{Attribute, AttributeValue, Attributes};
use crate::field;
use crate::id::fnv1a;
use crate::key::FlowKey;

/// An alert of Suricata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// When its packet was: a reading of the epoch's RAW clock.
    pub at: RawNs,
    /// When the agent read of it.
    pub read: RawNs,
    /// What Suricata wrote as its time, in nanoseconds since 1970. Tells doubles apart, and nothing else: the clock it was
    /// read from may be wrong.
    pub said_unix_ns: i64,
    /// Community ID v1 with seed 0.
    pub community_id: String,
    pub pair: Pair,
    pub signature: String,
    pub signature_id: u64,
    /// The generator of the signature; 1 is Suricata's own engine of rules.
    pub gid: u64,
    pub revision: u64,
    /// 1 is the most severe.
    pub severity: u64,
    pub category: String,
    /// `allowed` or `blocked`.
    pub action: String,
    /// Suricata's own number of the flow.
    pub flow: u64,
}

/// What the tag of a signature begins with.
pub const TAG_PREFIX: &str = "suricata:";

impl Alert {
    /// Bytes of each of its texts; longer ones are cut at a character boundary.
    pub const TEXT_BYTES_MAX: usize = 512;
    /// Bytes of a Community ID: `1:` and the Base64 of a SHA-1.
    pub const COMMUNITY_ID_BYTES_MAX: usize = 64;

    /// A text as long as alerts have them.
    pub fn clip(mut text: String) -> String {
        text.truncate(text.floor_char_boundary(Self::TEXT_BYTES_MAX));
        text
    }

    /// What a record says of it. Whether anything was new. It finds room where there is none: who fills a record with names
    /// does not hide what was said of it.
    pub fn add_to(&self, attributes: &mut Attributes) -> bool {
        let tag = format!("{TAG_PREFIX}{}", self.signature_id);
        let texts = [
            (field::ALERT_SIGNATURE, &*self.signature),
            (field::ALERT_CATEGORY, &self.category),
            (field::ALERT_ACTION, &self.action),
            (field::TAGS, &tag),
        ];
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
        let texts = texts.map(|(field, text)| (field, AttributeValue::Text(text.into())));
        let numbers = [
            (field::ALERT_SIGNATURE_ID, self.signature_id),
            (field::ALERT_SEVERITY, self.severity),
            (field::ALERT_GID, self.gid),
        ];
        let numbers = numbers.map(|(field, number)| (field, AttributeValue::Integer(number)));
        let mut new = false;
        for (field, value) in numbers.into_iter().chain(texts) {
            new |= attributes.push_over(field, &value, |other| !is_of_alert(other));
        }
        new
    }

    /// The same for every copy of an alert, and for no other: of what Suricata wrote, not of when it was read.
    pub fn digest(&self) -> u64 {
        let numbers = [self.said_unix_ns.cast_unsigned(), self.signature_id, self.gid, self.flow];
        let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
        fnv1a(numbers.chain(self.community_id.bytes()).chain([0]).chain(self.signature.bytes()))
    }

    /// Bytes it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let texts = [&self.community_id, &self.signature, &self.category, &self.action];
        size_of::<Alert>() + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// Takes over what alerts said of an earlier revision of a record. Whether there was anything.
pub fn carry_over(from: &Attributes, to: &mut Attributes) -> bool {
    let mut any = false;
    for attribute in from.iter().filter(|attribute| is_of_alert(attribute)) {
        any = true;
        to.push_over(attribute.field, &attribute.value, |other| !is_of_alert(other));
    }
    any
}

fn is_of_alert(attribute: &Attribute) -> bool {
    match &attribute.value {
        AttributeValue::Text(tag) if attribute.field == field::TAGS => tag.starts_with(TAG_PREFIX),
        _ => field::ALERT_FIELDS.contains(&attribute.field),
    }
}

/// Who spoke with whom over what, the same for both directions: what a Community ID is made of, as the key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    pub protocol: u8,
    /// In order. Ports are 0 where the protocol has none.
    pub ends: [(IpAddr, u16); 2],
}

impl Pair {
    pub fn new(protocol: u8, one: (IpAddr, u16), other: (IpAddr, u16)) -> Pair {
        let has_ports = FlowKey { protocol, ..FlowKey::default() }.has_ports();
        let end = |(ip, port)| (ip, if has_ports { port } else { 0 });
        let mut ends = [end(one), end(other)];
        ends.sort_unstable();
        Pair { protocol, ends }
    }

    /// Of a flow; `None` for what is not IP.
    pub fn of(key: &FlowKey) -> Option<Pair> {
        let (orig, resp) = (key.orig_ip()?, key.resp_ip()?);
        Some(Pair::new(key.protocol, (orig, key.orig_port), (resp, key.resp_port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Addresses;

    fn alert() -> Alert {
        let pair = Pair::new(6, ([10, 0, 0, 2].into(), 80), ([10, 0, 0, 1].into(), 40_000));
        Alert {
            at: RawNs(5),
            read: RawNs(6),
            said_unix_ns: 1_700_000_000_000_000_000,
            community_id: "1:x".to_owned(),
            pair,
            signature: "GPL ATTACK_RESPONSE id check returned root".to_owned(),
            signature_id: 2_100_498,
            gid: 1,
            revision: 7,
            severity: 2,
            category: "Potentially Bad Traffic".to_owned(),
            action: "allowed".to_owned(),
            flow: 9,
        }
    }

    #[test]
    fn both_directions_are_one_pair() {
        let key = FlowKey {
            protocol: 6,
            addresses: Addresses::V4 { orig: [10, 0, 0, 1], resp: [10, 0, 0, 2] },
            orig_port: 40_000,
            resp_port: 80,
            ..FlowKey::default()
        };
        assert_eq!(Pair::of(&key), Some(alert().pair));
        let ping = Pair::new(1, ([10, 0, 0, 1].into(), 8), ([10, 0, 0, 2].into(), 0));
        assert_eq!(ping.ends.map(|(_, port)| port), [0, 0]);
        assert_eq!(Pair::of(&FlowKey::default()), None);
    }

    #[test]
    fn what_an_alert_says_survives_later_revisions_and_nothing_else_does() {
        let mut attributes = Attributes::default();
        attributes.text(field::TAGS, "rule");
        assert!(alert().add_to(&mut attributes) && !alert().add_to(&mut attributes));
        let mut later = Attributes::default();
        assert!(carry_over(&attributes, &mut later));
        assert_eq!(later.len(), field::ALERT_FIELDS.len() + 1);
        let tags: Vec<_> = later.of(field::TAGS).collect();
        assert_eq!(tags, [&AttributeValue::Text("suricata:2100498".into())]);
        assert!(!carry_over(&Attributes::default(), &mut later));
    }

    #[test]
    fn a_record_that_is_full_has_room_for_alerts() {
        let full = || {
            let mut full = Attributes::default();
            for n in 0..1000 {
                full.text(field::DNS_HOST, &format!("{n}.example"));
            }
            assert!(full.is_full());
            full
        };
        let mut attributes = full();
        assert!(alert().add_to(&mut attributes));
        assert_eq!(attributes.of(field::ALERT_SIGNATURE).count(), 1);
        let mut later = full();
        carry_over(&attributes, &mut later);
        assert_eq!(later.of(field::ALERT_SIGNATURE).count(), 1);
        assert_eq!((later.len(), later.of(field::TAGS).count()), (Attributes::COUNT_MAX, 1));
    }

    #[test]
    fn copies_have_one_digest() {
        let copy = Alert { at: RawNs(77), read: RawNs(99), ..alert() };
        assert_eq!(copy.digest(), alert().digest());
        let other = Alert { signature_id: 1, ..alert() };
        assert_ne!(other.digest(), alert().digest());
    }
}
