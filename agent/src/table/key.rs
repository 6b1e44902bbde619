//! The key the table is looked up by: the same for both directions, six words, hashed with a secret.

use std::hash::{BuildHasher, RandomState};

use gnomon_flow::{Addresses, FlowKey};

use crate::decode::Packet;

const V4: u64 = 1;
const V6: u64 = 2;
const MAC: u64 = 3;

/// A key with its ends in order of address and port.
///
/// ```text
/// word 0…3  IPv4: low and high end in word 0 · IPv6: low end in 0 and 1, high end in 2 and 3 · MAC: low in 0, high in 1
/// word 4    port of the low end, port of the high end, outer and inner VLAN id (16 bits each)
/// word 5    upper 16 bits of the overlay network << 48 | EtherType << 32 | its lower 8 bits << 24 | protocol << 16
///           | kind of address << 8 | problem
/// ```
///
/// `problem` is 0 for a packet whose key is complete, so that undecodable packets are flows of their own, one a problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableKey([u64; 6]);

impl PartialEq for TableKey {
    /// Six words side by side: a derived comparison calls memcmp, which waits for memory before anything else can begin.
    #[inline]
    fn eq(&self, other: &TableKey) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl TableKey {
    /// The key, and whether the packet's sender is its high end.
    #[inline]
    pub(super) fn of(packet: &Packet<'_>) -> (TableKey, bool) {
        let key = &packet.key;
        let (mut words, kind, from_high) = match key.addresses {
            Addresses::V4 { orig, resp } => {
                let ends = [u32::from_be_bytes(orig), u32::from_be_bytes(resp)];
                let from_high = (ends[0], key.orig_port) > (ends[1], key.resp_port);
                let low = u64::from(ends[usize::from(from_high)]);
                let high = u64::from(ends[usize::from(!from_high)]);
                ([low << 32 | high, 0, 0, 0, 0, 0], V4, from_high)
            }
            Addresses::V6 { orig, resp } => {
                let ends = [u128::from_be_bytes(orig), u128::from_be_bytes(resp)];
                let from_high = (ends[0], key.orig_port) > (ends[1], key.resp_port);
                let (low, high) = (ends[usize::from(from_high)], ends[usize::from(!from_high)]);
                let words = [(low >> 64) as u64, low as u64, (high >> 64) as u64, high as u64, 0, 0];
                (words, V6, from_high)
            }
            Addresses::Mac { orig, resp } => {
                let (orig, resp) = (mac_word(orig), mac_word(resp));
                ([orig.min(resp), orig.max(resp), 0, 0, 0, 0], MAC, orig > resp)
            }
            Addresses::None => ([0; 6], 0, false),
        };
        let (low_port, high_port) =
            if from_high { (key.resp_port, key.orig_port) } else { (key.orig_port, key.resp_port) };
        words[4] = u64::from(low_port) << 48
            | u64::from(high_port) << 32
            | u64::from(key.vlan[0]) << 16
            | u64::from(key.vlan[1]);
        let problem = match packet.problem {
            Some(problem) if !packet.key_complete => problem as u64 + 1,
            _ => 0,
        };
        let network = u64::from(packet.network_id);
        words[5] = (network >> 8 & 0xffff) << 48
            | (network & 0xff) << 24
            | u64::from(key.ethertype) << 32
            | u64::from(key.protocol) << 16
            | kind << 8
            | problem;
        (TableKey(words), from_high)
    }

    /// Seen from an originator that is the high or the low end.
    pub(super) fn flow_key(&self, orig_is_high: bool) -> FlowKey {
        let words = &self.0;
        let addresses = match words[5] >> 8 & 0xff {
            V4 => {
                let (low, high) = ((words[0] >> 32) as u32, words[0] as u32);
                let (orig, resp) = if orig_is_high { (high, low) } else { (low, high) };
                Addresses::V4 { orig: orig.to_be_bytes(), resp: resp.to_be_bytes() }
            }
            V6 => {
                let end = |at: usize| (u128::from(words[at]) << 64 | u128::from(words[at + 1])).to_be_bytes();
                let (orig, resp) = if orig_is_high { (end(2), end(0)) } else { (end(0), end(2)) };
                Addresses::V6 { orig, resp }
            }
            MAC => {
                let end = |at: usize| std::array::from_fn(|i| words[at].to_be_bytes()[i + 2]);
                let (orig, resp) = if orig_is_high { (end(1), end(0)) } else { (end(0), end(1)) };
                Addresses::Mac { orig, resp }
            }
            _ => Addresses::None,
        };
        let ports = ((words[4] >> 48) as u16, (words[4] >> 32) as u16);
        let (orig_port, resp_port) = if orig_is_high { (ports.1, ports.0) } else { ports };
        FlowKey {
            vlan: [(words[4] >> 16) as u16, words[4] as u16],
            ethertype: (words[5] >> 32) as u16,
            protocol: self.protocol(),
            addresses,
            orig_port,
            resp_port,
        }
    }

    #[inline]
    pub(super) fn protocol(&self) -> u8 {
        (self.0[5] >> 16) as u8
    }
}

fn mac_word(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Folded multiplication with four secret words, drawn once a table: who sends packets cannot choose keys that collide
/// without knowing them. Not a cryptographic hash; the table's bound holds even if it is broken.
#[derive(Clone, Debug)]
pub(super) struct KeyHasher([u64; 4]);

impl KeyHasher {
    pub(super) fn random() -> KeyHasher {
        let source = RandomState::new();
        KeyHasher(std::array::from_fn(|i| source.hash_one(i)))
    }

    #[inline]
    pub(super) fn hash(&self, key: &TableKey) -> u64 {
        let (words, secret) = (&key.0, &self.0);
        let narrow = fold(words[0] ^ secret[0], words[4] ^ secret[1]);
        // An IPv4 key has nothing in the other three words.
        let wide = if words[5] >> 8 & 0xff == V4 {
            0
        } else {
            fold(words[1] ^ secret[2], words[2] ^ secret[3])
                .wrapping_add(fold(words[3] ^ secret[3], secret[0]))
        };
        fold(narrow ^ words[5].rotate_left(17), secret[2] ^ wide)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{decode, example};
    use gnomon_flow::DecodeProblem;

    #[test]
    fn both_directions_of_every_kind_have_one_key_and_give_their_own_back() {
        for make in example::ALL {
            let data = make();
            let there = decode(&example::frame(&data));
            let mut back = there;
            back.key = turned(there.key);
            let ((a, a_high), (b, b_high)) = (TableKey::of(&there), TableKey::of(&back));
            assert_eq!(a, b);
            assert_ne!(a_high, b_high);
            assert_eq!((a.flow_key(a_high), a.flow_key(b_high)), (there.key, back.key));
        }
    }

    fn turned(key: FlowKey) -> FlowKey {
        FlowKey {
            addresses: match key.addresses {
                Addresses::V4 { orig, resp } => Addresses::V4 { orig: resp, resp: orig },
                Addresses::V6 { orig, resp } => Addresses::V6 { orig: resp, resp: orig },
                Addresses::Mac { orig, resp } => Addresses::Mac { orig: resp, resp: orig },
                Addresses::None => Addresses::None,
            },
            orig_port: key.resp_port,
            resp_port: key.orig_port,
            ..key
        }
    }

    #[test]
    fn packets_without_a_whole_key_are_apart_by_problem_and_others_are_not() {
        let data = example::tcp_v4();
        let whole = decode(&example::frame(&data));
        let noted = Packet { problem: Some(DecodeProblem::Malformed), ..whole };
        assert_eq!(TableKey::of(&noted), TableKey::of(&whole));
        let lost = Packet { key_complete: false, ..noted };
        let other = Packet { problem: Some(DecodeProblem::TooDeep), ..lost };
        assert_ne!(TableKey::of(&lost).0, TableKey::of(&whole).0);
        assert_ne!(TableKey::of(&lost).0, TableKey::of(&other).0);
    }

    #[test]
    fn every_word_moves_the_hash() {
        let hasher = KeyHasher::random();
        for kind in [V4, V6] {
            let mut base = [1, 0, 0, 0, 5, kind << 8];
            let hash = hasher.hash(&TableKey(base));
            for word in 0..6 {
                if kind == V4 && (1..4).contains(&word) {
                    continue;
                }
                base[word] ^= 1 << 40;
                assert_ne!(hasher.hash(&TableKey(base)), hash, "word {word} of kind {kind}");
                base[word] ^= 1 << 40;
            }
        }
        assert_ne!(hasher.hash(&TableKey([0; 6])), KeyHasher::random().hash(&TableKey([0; 6])));
    }
}
