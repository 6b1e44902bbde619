//! NTLM's three messages, wherever they come along: who asks from where, who answers ([MS-NLMP] §2.2.1).

use gnomon_flow::{Attributes, field};

use super::reader::{Reader, utf16_le};
use super::{claimed_text, from_base64};

const SIGNATURE: &[u8] = b"NTLMSSP\0";
const NEGOTIATE_UNICODE: u32 = 1;
/// How far into a token of SPNEGO or of another wrapping a message may begin.
const SEARCHED_BYTES_MAX: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Negotiate,
    Challenge,
    Authenticate,
}

/// What an AUTHENTICATE message claims; other messages claim none of it.
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) user: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) host: Option<String>,
}

/// A message in base64, with nothing around it or inside SPNEGO.
pub(super) fn base64(text: &[u8], out: &mut Attributes) -> Option<Kind> {
    find(&from_base64(text.trim_ascii())?, out).map(|message| message.kind)
}

/// The first message inside of `blob`.
pub(super) fn find(blob: &[u8], out: &mut Attributes) -> Option<Message> {
    let searched = &blob[..blob.len().min(SEARCHED_BYTES_MAX)];
    let at = searched.windows(SIGNATURE.len()).position(|window| window == SIGNATURE)?;
    read(&blob[at..], out)
}

fn read(message: &[u8], out: &mut Attributes) -> Option<Message> {
    let mut reader = Reader::new(message);
    reader.take(SIGNATURE.len())?;
    let mut found = Message { kind: Kind::Negotiate, user: None, domain: None, host: None };
    match reader.u32_le()? {
        1 => {
            // Domain and workstation are in the OEM charset here; few send them.
            reader.u32_le()?;
            let fields = [payload(message, &mut reader), payload(message, &mut reader)];
            for (field, text) in [field::NTLM_DOMAIN, field::NTLM_HOST].into_iter().zip(fields) {
                if let Some(text) = text.filter(|text| !text.is_empty() && text.is_ascii()) {
                    out.text(field, &claimed_text(text));
                }
            }
        }
        2 => {
            found.kind = Kind::Challenge;
            let target = payload(message, &mut reader)?;
            let unicode = reader.u32_le()? & NEGOTIATE_UNICODE != 0;
            if let Some(target) = text(Some(target), unicode) {
                out.text(field::NTLM_TARGET, &target);
            }
        }
        3 => {
            found.kind = Kind::Authenticate;
            let _responses = (payload(message, &mut reader), payload(message, &mut reader));
            let [domain, user, host] = [(); 3].map(|()| payload(message, &mut reader));
            let _session_key = payload(message, &mut reader);
            let unicode = reader.u32_le().is_none_or(|flags| flags & NEGOTIATE_UNICODE != 0);
            found.domain = text(domain, unicode);
            found.user = text(user, unicode);
            found.host = text(host, unicode);
            for (field, value) in [
                (field::NTLM_DOMAIN, &found.domain),
                (field::NTLM_USER, &found.user),
                (field::USER, &found.user),
                (field::NTLM_HOST, &found.host),
            ] {
                if let Some(value) = value {
                    out.text(field, value);
                }
            }
        }
        _ => return None,
    }
    Some(found)
}

/// The bytes that a pair of length and offset points to.
fn payload<'a>(message: &'a [u8], reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let (length, _allocated, offset) = (reader.u16_le()?, reader.u16_le()?, reader.u32_le()?);
    let from = usize::try_from(offset).ok()?;
    message.get(from..from.checked_add(usize::from(length))?)
}

fn text(bytes: Option<&[u8]>, unicode: bool) -> Option<String> {
    let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
    Some(if unicode { utf16_le(bytes) } else { claimed_text(bytes).into_owned() })
}
