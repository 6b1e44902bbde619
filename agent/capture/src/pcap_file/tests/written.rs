//! Capture files written for tests, with the offset at which each packet ends.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) seconds: u32,
    /// Micro- or nanoseconds, as the format has it.
    pub(super) ticks: u32,
    pub(super) data: Vec<u8>,
    pub(super) original: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

pub(super) struct Classic {
    pub(super) order: Order,
    pub(super) magic: u32,
    pub(super) major: u16,
    pub(super) minor: u16,
    pub(super) linktype: u32,
    /// Write the wire length before the captured length.
    pub(super) swapped: bool,
}

pub(super) struct Pcapng {
    pub(super) order: Order,
    pub(super) linktype: u16,
    pub(super) options: bool,
    pub(super) obsolete: bool,
}

impl Order {
    pub(super) fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    pub(super) fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    pub(super) fn i64(self, value: i64) -> [u8; 8] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    pub(super) fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| self.u32(*word)).collect()
    }

    /// A section header block of unknown section length.
    pub(super) fn section(self) -> Vec<u8> {
        let mut body = self.u32(0x1a2b_3c4d).to_vec();
        body.extend(self.u16(1));
        body.extend(self.u16(0));
        body.extend(self.i64(-1));
        block(self, 0x0a0d_0d0a, &body)
    }

    pub(super) fn interface(self, linktype: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
        let mut body = self.u16(linktype).to_vec();
        body.extend([0, 0]);
        body.extend(self.u32(snaplen));
        body.extend(options);
        block(self, 1, &body)
    }
}

pub(super) fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let length = 12 + body.len().next_multiple_of(4);
    let mut block = order.words(&[kind, length as u32]);
    block.extend(body);
    block.resize(length - 4, 0);
    block.extend(order.u32(length as u32));
    block
}

pub(super) fn option(order: Order, code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = order.u16(code).to_vec();
    option.extend(order.u16(value.len() as u16));
    option.extend(value);
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

impl Classic {
    pub(super) fn micro(order: Order) -> Classic {
        Classic { order, magic: 0xa1b2_c3d4, major: 2, minor: 4, linktype: 1, swapped: false }
    }

    pub(super) fn nano(order: Order) -> Classic {
        Classic { magic: 0xa1b2_3c4d, ..Classic::micro(order) }
    }

    pub(super) fn modified(order: Order) -> Classic {
        Classic { magic: 0xa1b2_cd34, ..Classic::micro(order) }
    }

    pub(super) fn write(&self, packets: &[Packet]) -> Written {
        let order = self.order;
        let mut bytes = order.u32(self.magic).to_vec();
        bytes.extend(order.u16(self.major));
        bytes.extend(order.u16(self.minor));
        bytes.extend(order.words(&[0, 0, 262_144, self.linktype]));
        let mut ends = Vec::new();
        for packet in packets {
            let captured = packet.data.len() as u32;
            let lengths =
                if self.swapped { [packet.original, captured] } else { [captured, packet.original] };
            bytes.extend(order.words(&[packet.seconds, packet.ticks]));
            bytes.extend(order.words(&lengths));
            if self.magic == 0xa1b2_cd34 {
                bytes.extend(order.u32(2));
                bytes.extend(order.u16(0x0800));
                bytes.extend([if captured % 2 == 1 { 4 } else { 0 }, 0]);
            }
            bytes.extend(&packet.data);
            ends.push(bytes.len());
        }
        Written { bytes, ends }
    }
}

impl Pcapng {
    pub(super) fn new(order: Order) -> Pcapng {
        Pcapng { order, linktype: 1, options: false, obsolete: false }
    }

    /// One section with one interface in microseconds.
    pub(super) fn write(&self, packets: &[Packet]) -> Written {
        let mut bytes = self.order.section();
        bytes.extend(self.order.interface(self.linktype, 0, &option(self.order, 2, b"eth0")));
        let mut ends = Vec::new();
        for packet in packets {
            bytes.extend(self.packet_block(0, packet));
            ends.push(bytes.len());
            bytes.extend(block(self.order, 0x0000_0bad, &[0xee; 5]));
        }
        Written { bytes, ends }
    }

    pub(super) fn packet_block(&self, interface: u32, packet: &Packet) -> Vec<u8> {
        let order = self.order;
        let ticks = u64::from(packet.seconds) * 1_000_000 + u64::from(packet.ticks);
        let mut body = if self.obsolete {
            [order.u16(interface as u16), order.u16(0)].concat()
        } else {
            order.u32(interface).to_vec()
        };
        let captured = packet.data.len() as u32;
        body.extend(order.words(&[(ticks >> 32) as u32, ticks as u32, captured, packet.original]));
        body.extend(&packet.data);
        body.resize(body.len().next_multiple_of(4), 0);
        if self.options {
            body.extend(option(order, 1, b"a comment"));
            body.extend(option(order, 2, &order.u32(2)));
            body.extend(option(order, 0, &[]));
        }
        block(order, if self.obsolete { 2 } else { 6 }, &body)
    }
}
