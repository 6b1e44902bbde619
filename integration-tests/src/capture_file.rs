//! Capture files whose every packet is known.

use std::ops::Range;

/// A classic pcap file of `packets` empty UDP datagrams of one flow, a second apart, in frames of 42 bytes.
pub fn pcap_file(packets: u32) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for n in 0..packets {
        for word in [1_700_000_000 + n, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&frame);
    }
    file
}

/// A classic pcap file of flows of one empty UDP datagram each, a millisecond apart. Each number is another flow.
pub fn pcap_of_flows(flows: Range<u32>) -> Vec<u8> {
    let mut file = pcap_file(1);
    let frame = file.split_off(24)[16..].to_vec();
    for n in flows {
        let mut frame = frame.clone();
        // The last two bytes of the originator's address, and its port's: 16 million flows are told apart.
        frame[28..30].copy_from_slice(&(n as u16).to_be_bytes());
        frame[35] = (n >> 16) as u8;
        for word in [1_700_000_000 + n / 1000, n % 1000 * 1000, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&frame);
    }
    file
}
