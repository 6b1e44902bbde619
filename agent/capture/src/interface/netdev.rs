//! What the kernel's generic netlink family `netdev` knows: which facts of a frame a driver tells XDP programs
//! (linux/netdev.h; layout of generic netlink: linux/genetlink.h).

use std::io;

use rustix::net::netlink;

use super::netlink::{ask_of, attributes, u16_at, u64_at};

/// NETDEV_XDP_RX_METADATA_TIMESTAMP.
pub(super) const RX_TIMESTAMP: u64 = 1;

const GENL_HEADER: usize = 4;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;

/// A generic netlink request with one attribute.
fn request(command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(len.to_ne_bytes());
    body.extend(attribute.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

/// One attribute of the answer.
fn ask<T>(
    family: u16,
    body: &[u8],
    wanted: u16,
    read: impl Fn(&[u8], usize) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut found = None;
    ask_of(Some(netlink::GENERIC), family, 0, body, |payload| {
        let attribute =
            payload.get(GENL_HEADER..).and_then(|rest| attributes(rest).find(|(kind, _)| *kind == wanted));
        found = attribute.and_then(|(_, value)| read(value, 0));
    })?;
    Ok(found)
}

/// NETDEV_XDP_RX_METADATA_* flags of an interface, None where the kernel does not tell them.
///
/// # Errors
/// ENOENT on kernels without the family (before 6.3), ENODEV when the interface is gone.
pub(super) fn rx_metadata(index: u32) -> io::Result<Option<u64>> {
    let by_name = request(CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = ask(GENL_ID_CTRL, &by_name, CTRL_ATTR_FAMILY_ID, u16_at)?
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let by_index = request(NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    ask(family, &by_index, NETDEV_A_DEV_XDP_RX_METADATA_FEATURES, u64_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_tells_programs_nothing_and_no_interface_is_an_error() {
        let index = super::super::describe("lo").unwrap().index;
        match rx_metadata(index) {
            Ok(Some(features)) => assert_eq!(features, 0),
            // Before 6.7, or a family that is not there.
            Ok(None) => println!("SKIPPED: this kernel does not tell"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
        assert!(rx_metadata(0x7fff_fff0).is_err());
    }
}
