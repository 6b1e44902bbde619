//! Syslog over UDP: facility and severity (RFC 5424 §6.2.1, RFC 3164 §4.1).

use gnomon_flow::{Attributes, field};

use super::line::number;

const PRIORITY_MAX: u32 = 191;
const SEVERITIES: [&str; 8] =
    ["emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug"];
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// `<165>` and then text.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let Some(close) = bytes.iter().take(5).position(|byte| *byte == b'>') else { return false };
    let Some(priority) = bytes.get(1..close).and_then(number).filter(|priority| *priority <= PRIORITY_MAX)
    else {
        return false;
    };
    let text = &bytes[close + 1..];
    let printable = text.iter().take(16).all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\r' | b'\n'));
    if text.is_empty() || !printable {
        return false;
    }
    let (facility, severity) = (priority / 8, priority % 8);
    if let (Some(facility), Some(severity)) =
        (FACILITIES.get(facility as usize), SEVERITIES.get(severity as usize))
    {
        out.text(field::SYSLOG_FACILITY, facility);
        out.text(field::SYSLOG_SEVERITY, severity);
    }
    true
}
