//! Zeek's `conn_state` and `history`, from what a record has: where the connection stood, how often each flag was seen,
//! which side had it, and how many packets each side sent. In the records of an agent that did not say which side had a
//! flag, who sent a FIN or a RST is told only where the other side's packets are all accounted for.

use gnomon_flow::{FlowRecord, TcpState, TcpSummary};

const FIN: usize = 0;
const SYN: usize = 1;
const RST: usize = 2;

/// Zeek's rule (`conn_state` of base/protocols/conn), by the same words.
pub(super) fn conn_state(record: &FlowRecord) -> Option<&'static str> {
    let (orig, resp) = (record.orig.packets > 0, record.resp.packets > 0);
    match (record.key.protocol, &record.tcp) {
        (6, Some(tcp)) => tcp_state(record, tcp),
        (17, _) => Some(match (orig, resp) {
            (true, true) => "SF",
            (true, false) => "S0",
            (false, true) => "SHR",
            (false, false) => "OTH",
        }),
        _ => Some("OTH"),
    }
}

/// Which side sent packets with a flag, or can have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Originator,
    Responder,
    Both,
    Either,
}

fn sender(record: &FlowRecord, tcp: &TcpSummary, flag: usize) -> Sender {
    match tcp.of_side.map(|flags| flags >> flag & 1 == 1) {
        [true, true] => Sender::Both,
        [true, false] => Sender::Originator,
        [false, true] => Sender::Responder,
        [false, false] => possible_sender(record, tcp),
    }
}

/// Which side can have sent what was neither a SYN nor a SYN-ACK.
fn possible_sender(record: &FlowRecord, tcp: &TcpSummary) -> Sender {
    let only_syns = record.orig.packets <= u64::from(tcp.flags[SYN]);
    let only_syn_acks = record.resp.packets <= u64::from(tcp.syn_ack);
    match (only_syns, only_syn_acks) {
        (false, true) => Sender::Originator,
        (true, false) => Sender::Responder,
        _ => Sender::Either,
    }
}

fn tcp_state(record: &FlowRecord, tcp: &TcpSummary) -> Option<&'static str> {
    // Later segments count anew: what the first one had is not known there.
    let whole = record.segment == 0;
    let (orig, resp) = (record.orig.packets, record.resp.packets);
    match tcp.state {
        TcpState::Midstream => Some("OTH"),
        TcpState::SynSent => Some(if resp == 0 { "S0" } else { "OTH" }),
        // Zeek takes a SYN-ACK for the answer; without the SYN it is none.
        TcpState::SynReceived => whole.then_some(if tcp.flags[SYN] > 0 { "S1" } else { "OTH" }),
        TcpState::Established => Some("S1"),
        TcpState::Closed => Some("SF"),
        TcpState::Closing => match sender(record, tcp, FIN) {
            _ if tcp.flags[FIN] == 0 => None,
            Sender::Originator if resp > 0 => Some("S2"),
            Sender::Originator => whole.then_some("SH"),
            Sender::Responder if orig > 0 => Some("S3"),
            Sender::Responder => whole.then_some("SHR"),
            Sender::Both => Some("SF"),
            // Two, and none was a repetition: one of each side.
            Sender::Either => (tcp.flags[FIN] == 2 && tcp.retransmissions == 0).then_some("SF"),
        },
        TcpState::Reset => match sender(record, tcp, RST) {
            _ if tcp.flags[RST] == 0 => None,
            Sender::Originator if resp > 0 => Some("RSTO"),
            Sender::Originator if !whole => None,
            Sender::Originator if is_syn_and_reset(record, tcp) => Some("RSTOS0"),
            Sender::Originator => Some("OTH"),
            // Zeek names the responder where both did.
            Sender::Responder | Sender::Both if tcp.syn_ack > 0 && orig > 0 => Some("RSTR"),
            Sender::Responder | Sender::Both if !whole => None,
            Sender::Responder | Sender::Both if tcp.flags[SYN] == 0 => Some("RSTRH"),
            // Neither the SYN-ACK nor what followed was missed: the SYN was answered by the reset.
            Sender::Responder if orig <= u64::from(tcp.flags[SYN]) => Some("REJ"),
            Sender::Responder | Sender::Both => Some("RSTR"),
            Sender::Either => None,
        },
    }
}

/// All that the originator sent were SYNs and resets.
fn is_syn_and_reset(record: &FlowRecord, tcp: &TcpSummary) -> bool {
    let flags = u64::from(tcp.flags[SYN]) + u64::from(tcp.flags[RST]);
    tcp.flags[SYN] > 0 && tcp.flags[FIN] == 0 && record.orig.packets == flags
}

/// Zeek's letters are in the order of the packets, which a record does not have: told only where one order is possible.
pub(super) fn history(record: &FlowRecord) -> Option<&'static str> {
    if record.segment > 0 {
        return None;
    }
    let data = [record.orig.data_bytes > 0, record.resp.data_bytes > 0];
    match (record.key.protocol, &record.tcp) {
        // The originator is who sent the first datagram.
        (17, _) => match data {
            [true, true] => Some("Dd"),
            [true, false] => Some("D"),
            [false, true] => Some("d"),
            [false, false] => None,
        },
        (6, Some(tcp)) if data == [false, false] => handshake(record, tcp),
        _ => None,
    }
}

/// Of a connection that never was.
fn handshake(record: &FlowRecord, tcp: &TcpSummary) -> Option<&'static str> {
    let (orig, resp) = (record.orig.packets, record.resp.packets);
    let [syn, syn_ack, rst] = [tcp.flags[SYN], tcp.syn_ack, tcp.flags[RST]].map(u64::from);
    if syn == 0 {
        return None;
    }
    match tcp.state {
        TcpState::SynSent if orig == syn && resp == 0 => Some("S"),
        TcpState::SynReceived if orig == syn && resp == syn_ack => Some("Sh"),
        TcpState::Reset if rst == 0 => None,
        TcpState::Reset if orig == syn && resp == rst && syn_ack == 0 => Some("Sr"),
        TcpState::Reset if orig == syn + rst && resp == 0 => Some("SR"),
        TcpState::Reset if orig == syn + rst && resp == syn_ack => Some("ShR"),
        _ => None,
    }
}
