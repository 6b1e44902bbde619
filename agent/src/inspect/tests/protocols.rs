//! A conversation of each protocol: what it tells, that it tells the same wherever its segments are cut, and that
//! nothing spoiled breaks a bound. All bytes are made here.

use md5::{Digest, Md5};

use super::*;

/// Who sends what, in turn: the originator where it is true.
struct Conversation {
    name: &'static str,
    turns: Vec<(bool, Vec<u8>)>,
    /// Fields, and all of their values in order.
    tells: Vec<(FieldId, Vec<&'static str>)>,
}

fn client(bytes: impl AsRef<[u8]>) -> (bool, Vec<u8>) {
    (true, bytes.as_ref().to_vec())
}

fn server(bytes: impl AsRef<[u8]>) -> (bool, Vec<u8>) {
    (false, bytes.as_ref().to_vec())
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// An element of DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        length @ 0..=0x7f => element.push(length as u8),
        length => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend(content);
    element
}

fn integer(value: u8) -> Vec<u8> {
    der(2, &[&[value]])
}

fn ntlm(kind: u8, domain: &str, user: &str, host: &str) -> Vec<u8> {
    let mut message = b"NTLMSSP\0".to_vec();
    message.extend([kind, 0, 0, 0]);
    let texts: &[Vec<u8>] = match kind {
        1 => return [message, vec![1, 0, 0, 0], vec![0; 16]].concat(),
        2 => &[utf16(domain)],
        _ => &[vec![], vec![], utf16(domain), utf16(user), utf16(host), vec![]],
    };
    let mut at = message.len() + 8 * texts.len() + 4;
    for text in texts {
        let length = text.len() as u16;
        message.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        message.extend((at as u32).to_le_bytes());
        at += text.len();
    }
    message.extend([1, 0, 0, 0]);
    message.extend(texts.concat());
    message
}

fn in_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn session(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

/// An SMB 2 message: command, response, the body's fixed part, and what follows it.
fn smb2(command: u8, is_response: bool, body: &[u8], buffer: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 64];
    header[..4].copy_from_slice(b"\xfeSMB");
    header[4] = 64;
    header[12] = command;
    header[16] = u8::from(is_response);
    session(&[&header[..], body, buffer].concat())
}

fn smb2_buffer(fixed: usize, offset_at: usize, length_at: usize, buffer: &[u8]) -> Vec<u8> {
    let mut body = vec![0; fixed];
    body[offset_at..offset_at + 2].copy_from_slice(&(64 + fixed as u16).to_le_bytes());
    body[length_at..length_at + 2].copy_from_slice(&(buffer.len() as u16).to_le_bytes());
    body
}

fn smb1(command: u8, is_response: bool, words: &[u8], data: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 32];
    message[..4].copy_from_slice(b"\xffSMB");
    message[4] = command;
    message[9] = if is_response { 0x80 } else { 0 };
    message[11] = 0x80;
    message.push((words.len() / 2) as u8);
    message.extend(words);
    message.extend((data.len() as u16).to_le_bytes());
    message.extend(data);
    session(&message)
}

fn kexinit(lists: [&str; 8]) -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    for list in lists.into_iter().chain(["", ""]) {
        payload.extend((list.len() as u32).to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    ssh_packet(&payload)
}

fn ssh_packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32 + 5).to_be_bytes().to_vec();
    packet.push(4);
    packet.extend(payload);
    packet.extend([0; 4]);
    packet
}

fn h2_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

fn mysql(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(number);
    packet.extend(payload);
    packet
}

fn kerberos_name(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let strings: Vec<Vec<u8>> = parts.iter().map(|part| der(0x1b, &[part])).collect();
    let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
    let name = der(0x30, &[&der(0xa0, &[&integer(1)]), &der(0xa1, &[&der(0x30, &strings)])]);
    der(tag, &[&name])
}

fn as_request() -> Vec<u8> {
    let body = der(
        0x30,
        &[
            &der(0xa0, &[&der(3, &[&[0, 0x40, 0x81, 0, 0x10]])]),
            &kerberos_name(0xa1, &[b"alice"]),
            &der(0xa2, &[&der(0x1b, &[b"EXAMPLE.ORG"])]),
            &kerberos_name(0xa3, &[b"krbtgt", b"EXAMPLE.ORG"]),
            &der(0xa7, &[&integer(9)]),
            &der(0xa8, &[&der(0x30, &[&integer(18), &integer(23)])]),
        ],
    );
    let request = [der(0xa1, &[&integer(5)]), der(0xa2, &[&integer(10)]), der(0xa4, &[&body])].concat();
    der(0x6a, &[&der(0x30, &[&request])])
}

fn kerberos_error() -> Vec<u8> {
    let error = [
        der(0xa0, &[&integer(5)]),
        der(0xa1, &[&integer(30)]),
        der(0xa6, &[&integer(25)]),
        der(0xa9, &[&der(0x1b, &[b"EXAMPLE.ORG"])]),
        kerberos_name(0xaa, &[b"krbtgt", b"EXAMPLE.ORG"]),
    ]
    .concat();
    der(0x7e, &[&der(0x30, &[&error])])
}

fn ldap_bind() -> Vec<u8> {
    let bind = der(0x60, &[&integer(3), &der(4, &[b"cn=admin,dc=example"]), &der(0x80, &[b"secret"])]);
    der(0x30, &[&integer(1), &bind])
}

fn snmp(community: &[u8]) -> Vec<u8> {
    let binding = der(0x30, &[&der(6, &[&[0x2b, 6, 1, 2, 1, 1, 1, 0]]), &[5, 0]]);
    let unit = der(0xa0, &[&integer(1), &integer(0), &integer(0), &der(0x30, &[&binding])]);
    der(0x30, &[&integer(1), &der(4, &[community]), &unit])
}

/// The server's flight of TLS 1.2 with a certificate, in records of so many bytes.
fn tls_server_flight(record_bytes: usize) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["www.example.org".into()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "www.example.org");
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x0a, 0xbc]));
    let certificate = params.self_signed(&key).unwrap();
    let certificate = certificate.der();
    let u24 = |length: usize| (length as u32).to_be_bytes()[1..].to_vec();
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0xc0, 0x2f, 0]);
    let chain = [u24(certificate.len() + 3), u24(certificate.len()), certificate.to_vec()].concat();
    let mut flight = Vec::new();
    for (kind, body) in [(2, hello), (11, chain), (14, vec![])] {
        flight.push(kind);
        flight.extend(u24(body.len()));
        flight.extend(body);
    }
    flight
        .chunks(record_bytes)
        .flat_map(|part| [&[22, 3, 3][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect()
}

fn mail_and_text() -> Vec<Conversation> {
    vec![
        Conversation {
            name: "smtp",
            turns: vec![
                server("220-mx.example.org ESMTP ready\r\n220 really\r\n"),
                client("EHLO Client.Example\r\n"),
                server("250-mx\r\n250 AUTH LOGIN PLAIN\r\n"),
                client("AUTH LOGIN\r\n"),
                server("334 VXNlcm5hbWU6\r\n"),
                client("YWxpY2U=\r\n"),
                server("334 UGFzc3dvcmQ6\r\n"),
                client("c2VjcmV0\r\n"),
                server("235 ok\r\n"),
                client("MAIL FROM:<Alice@Example.org> SIZE=100\r\n"),
                server("250 ok\r\n"),
                client("RCPT TO:<bob@example.net>\r\n"),
                server("250 ok\r\n"),
                client("DATA\r\n"),
                server("354 go\r\n"),
                client(
                    "From: \"A, B\" <alice@example.org>\r\nTo: bob@example.net,\r\n carol@example.net\r\n\
                     Subject: =?UTF-8?Q?caf=C3=A9?=\r\n =?utf-8?b?IQ==?=\r\nMessage-ID: <1@example.org>\r\n\
                     X-Mailer: hand\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
                     Content-Type: application/pdf; name=\"a.pdf\"\r\nContent-Disposition: attachment;\r\n\
                     \tfilename=\"b.pdf\"\r\n\r\nMAIL FROM:<not@this>\r\n..\r\n.\r\n",
                ),
                server("250 queued\r\n"),
                client("MAIL FROM:<second@example.org>\r\nDATA\r\n"),
                server("250 ok\r\n503 no recipients\r\n"),
                client("RSET\r\nMAIL FROM:<third@example.org>\r\nQUIT\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["smtp"]),
                (field::USER, vec!["alice"]),
                (field::EMAIL_HELLO, vec!["client.example"]),
                (field::EMAIL_SRC, vec!["alice@example.org", "second@example.org", "third@example.org"]),
                (field::EMAIL_DST, vec!["bob@example.net", "carol@example.net"]),
                (field::EMAIL_SUBJECT, vec!["café!"]),
                (field::EMAIL_ID, vec!["1@example.org"]),
                (field::EMAIL_MAILER, vec!["hand"]),
                (field::EMAIL_CONTENT_TYPE, vec!["multipart/mixed", "application/pdf"]),
                (field::EMAIL_FILENAME, vec!["a.pdf", "b.pdf"]),
            ],
        },
        Conversation {
            name: "smtp, a greeting that does not say so, and AUTH PLAIN",
            turns: vec![
                server("220 mail\r\n"),
                client("HELO me\r\n"),
                server("250 ok\r\n"),
                client(format!("AUTH PLAIN {}\r\n", in_base64(b"\0bob\0secret"))),
                server("535 no\r\n"),
                client(format!("AUTH NTLM {}\r\n", in_base64(&ntlm(1, "", "", "")))),
                server(format!("334 {}\r\n", in_base64(&ntlm(2, "DOM", "", "")))),
                client(format!("{}\r\n", in_base64(&ntlm(3, "DOM", "eve", "PC")))),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["smtp"]),
                (field::USER, vec!["bob", "eve"]),
                (field::NTLM_HOST, vec!["PC"]),
            ],
        },
        Conversation {
            name: "ftp",
            turns: vec![
                server("220 ProFTPD ready\r\n"),
                client("USER alice\r\n"),
                server("331 password\r\n"),
                client("PASS secret\r\n"),
                server("230-hello\r\n   text\r\n230 in\r\n"),
                client("RETR /pub/a file.txt\r\n"),
                server("150 coming\r\n226 done\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["ftp"]),
                (field::USER, vec!["alice"]),
                (field::FTP_COMMAND, vec!["USER", "PASS", "RETR"]),
                (field::FTP_FILENAME, vec!["/pub/a file.txt"]),
                (field::FTP_BANNER, vec!["ProFTPD ready"]),
                (field::FTP_CODE, vec!["220", "331", "230", "150", "226"]),
            ],
        },
        Conversation {
            name: "ftp by the client's word",
            turns: vec![server("220 ready\r\n"), client("USER bob\r\n"), server("331 password\r\n")],
            tells: vec![(field::PROTOCOLS, vec!["ftp"]), (field::USER, vec!["bob"])],
        },
        Conversation {
            name: "pop3",
            turns: vec![
                server("+OK ready <1.2@host>\r\n"),
                client("APOP carol c4c9334bac560ecc979e58001b3e22fb\r\n"),
                server("-ERR no\r\n"),
                client("USER alice\r\n"),
                server("+OK\r\n"),
                client("PASS secret\r\nAUTH PLAIN\r\n"),
                server("+OK\r\n+ \r\n"),
                client(format!("{}\r\n", in_base64(b"\0dave\0x"))),
            ],
            tells: vec![(field::PROTOCOLS, vec!["pop3"]), (field::USER, vec!["carol", "alice", "dave"])],
        },
        Conversation {
            name: "imap",
            turns: vec![
                server("* OK ready\r\n"),
                client("a1 LOGIN \"al\\\"ice\" secret\r\n"),
                server("a1 OK in\r\n"),
                client("a2 SELECT INBOX\r\na3 APPEND x {5}\r\na4 S!\r\na5 EXAMINE \"my mail\"\r\n"),
                server("* 1 FETCH (BODY[] {4}\r\nabcd)\r\na2 OK\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["imap"]),
                (field::USER, vec!["al\"ice"]),
                (field::EMAIL_FOLDER, vec!["INBOX", "my mail"]),
            ],
        },
        Conversation {
            name: "irc",
            turns: vec![
                client("NICK gnom\r\nUSER gnom 0 * :Gnom On\r\n"),
                server(":irc.example 001 gnom :Welcome\r\n"),
                client("JOIN #a,#b\r\nPRIVMSG #a :hello\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["irc"]),
                (field::IRC_NICK, vec!["gnom"]),
                (field::IRC_CHANNEL, vec!["#a", "#b"]),
            ],
        },
        Conversation {
            name: "sip over tcp",
            turns: vec![
                client(
                    "INVITE sip:bob@example.org SIP/2.0\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
                     t: <sip:bob@example.org>\r\nCall-ID: 42@h\r\nUser-Agent: phone\r\nContent-Length: 4\r\n\r\nv=0\n",
                ),
                server("SIP/2.0 180 Ringing\r\nCall-ID: 42@h\r\n\r\n\r\n\r\nSIP/2.0 200 OK\r\n\r\n"),
                client("ACK sip:bob@example.org SIP/2.0\r\n\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["sip"]),
                (field::SIP_METHOD, vec!["INVITE", "ACK"]),
                (field::SIP_STATUS, vec!["180", "200"]),
                (field::SIP_FROM, vec!["<sip:alice@example.com>;tag=1"]),
                (field::SIP_TO, vec!["<sip:bob@example.org>"]),
                (field::SIP_CALL_ID, vec!["42@h"]),
                (field::SIP_USER_AGENT, vec!["phone"]),
                (field::SIP_USER, vec!["bob"]),
            ],
        },
        Conversation {
            name: "http, with users",
            turns: vec![
                client(format!(
                    "GET /a HTTP/1.1\r\nAuthorization: Basic {}\r\nX-Forwarded-For: 192.0.2.1, 2001:db8::1\r\n\r\n\
                     HEAD /b HTTP/1.0\r\nAuthorization: Digest realm=\"a,b\", username=\"bob\"\r\n\r\n\
                     GET /c HTTP/1.1\r\nAuthorization: NTLM {}\r\n\r\n",
                    in_base64(b"alice:pass:word"),
                    in_base64(&ntlm(3, "DOM", "eve", "PC")),
                )),
                server(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 204 x\r\nContent-Length: 500\r\n\r\n\
                     HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n",
                ),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["http"]),
                (field::HTTP_URI, vec!["/a", "/b", "/c"]),
                (field::HTTP_STATUS, vec!["200", "204", "401"]),
                (field::HTTP_AUTH_TYPE, vec!["basic", "digest", "ntlm"]),
                (field::HTTP_USER, vec!["alice", "bob", "eve"]),
                (field::USER, vec!["alice", "bob", "eve"]),
                (field::HTTP_XFF, vec!["192.0.2.1", "2001:db8::1"]),
                (field::HTTP_VERSION_SRC, vec!["1.1", "1.0"]),
                (field::HTTP_VERSION_DST, vec!["1.1"]),
            ],
        },
    ]
}

fn binary() -> Vec<Conversation> {
    let share = utf16("\\\\host\\share");
    let file = utf16("dir\\file.txt");
    let token = der(0x60, &[&ntlm(3, "DOM", "alice", "PC")]);
    let setup_1 = {
        let mut words = vec![0xff, 0, 0, 0];
        words.extend([0; 8]);
        words[10..12].copy_from_slice(&[0, 0]);
        words.extend([0; 12]);
        words[14..16].copy_from_slice(&(token.len() as u16).to_le_bytes());
        words
    };
    // The data begin behind header, words and two counts; the texts are aligned to two bytes.
    let padding = vec![0; (32 + 1 + setup_1.len() + 2 + token.len()) % 2];
    let setup_1_data = [token.clone(), padding, utf16("Unix\0Samba\0")].concat();
    vec![
        Conversation {
            name: "smb 3",
            turns: vec![
                client(smb2(0, false, &[36, 0, 1, 0], &[0; 40])),
                server(smb2(0, true, &[65, 0, 0, 0, 0x11, 3], &[0; 60])),
                client(smb2(1, false, &smb2_buffer(24, 12, 14, &token), &token)),
                client(smb2(3, false, &smb2_buffer(8, 4, 6, &share), &share)),
                client(smb2(5, false, &smb2_buffer(56, 44, 46, &file), &file)),
                // Data that are written: only the head is looked at.
                client(smb2(9, false, &[0; 48], &[7; 9000])),
                client(smb2(5, false, &smb2_buffer(56, 44, 46, &utf16("x")), &utf16("x"))),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["smb"]),
                (field::SMB_DIALECT, vec!["SMB 3.1.1"]),
                (field::SMB_DOMAIN, vec!["DOM"]),
                (field::SMB_USER, vec!["alice"]),
                (field::SMB_HOST, vec!["PC"]),
                (field::SMB_SHARE, vec!["\\\\host\\share"]),
                (field::SMB_FILENAME, vec!["dir\\file.txt", "x"]),
            ],
        },
        Conversation {
            name: "smb 1",
            turns: vec![
                client([&unhex("81000044 20")[..], &[b'A'; 67]].concat()),
                server(unhex("82000000")),
                client(smb1(0x72, false, &[], b"\x02LANMAN1.0\0\x02NT LM 0.12\0\x02unknown\0")),
                server(smb1(0x72, true, &[1, 0], &[])),
                client(smb1(0x73, false, &setup_1, &setup_1_data)),
                client(smb1(
                    0x75,
                    false,
                    &[0xff, 0, 0, 0, 0, 0, 1, 0],
                    &[&[0][..], &utf16("\\\\H\\IPC$\0"), b"?????\0"].concat(),
                )),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["smb"]),
                (field::SMB_DIALECT, vec!["NT LM 0.12"]),
                (field::SMB_USER, vec!["alice"]),
                (field::SMB_OS, vec!["Unix"]),
                (field::SMB_VERSION, vec!["Samba"]),
                (field::SMB_SHARE, vec!["\\\\H\\IPC$"]),
            ],
        },
        Conversation {
            name: "kerberos",
            turns: vec![client(session(&as_request())), server(session(&kerberos_error()))],
            tells: vec![
                (field::PROTOCOLS, vec!["krb5"]),
                (field::KRB5_CNAME, vec!["alice"]),
                (field::KRB5_REALM, vec!["EXAMPLE.ORG"]),
                (field::KRB5_SNAME, vec!["krbtgt/EXAMPLE.ORG"]),
                (field::KRB5_ETYPE, vec!["aes256-cts-hmac-sha1-96", "rc4-hmac"]),
                (field::KRB5_ERROR, vec!["KDC_ERR_PREAUTH_REQUIRED"]),
            ],
        },
        Conversation {
            name: "ldap",
            turns: vec![
                client(ldap_bind()),
                server(der(0x30, &[&integer(1), &der(0x61, &[&der(10, &[&[0]]), &[4, 0], &[4, 0]])])),
                client(der(0x30, &[&integer(2), &der(0x60, &[&integer(3), &[4, 0], &[0x80, 0]])])),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["ldap"]),
                (field::LDAP_BIND_NAME, vec!["cn=admin,dc=example", "<ROOT>"]),
                (field::LDAP_AUTH_TYPE, vec!["simple", "none"]),
            ],
        },
        Conversation {
            name: "rdp, then tls",
            turns: vec![
                client(
                    [
                        &unhex("0300002b 26e00000000000")[..],
                        b"Cookie: mstshash=alice\r\n",
                        &unhex("0100080003000000"),
                    ]
                    .concat(),
                ),
                server(unhex("03000013 0ed00000123400 0200080002000000")),
                client(&traffic("few", "client")[0]),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["rdp", "tls"]),
                (field::USER, vec!["alice"]),
                (field::RDP_REQUESTED, vec!["ssl", "nla"]),
                (field::RDP_SELECTED, vec!["nla"]),
                (field::TLS_HOST, vec!["few.test"]),
            ],
        },
        Conversation {
            name: "mysql",
            turns: vec![
                server(mysql(0, &[&b"\x0a8.0.36\0"[..], &[1, 0, 0, 0], b"saltsalt\0", &[0xff; 18]].concat())),
                client(mysql(
                    1,
                    &[&0x0000_a20f_u32.to_le_bytes()[..], &[0; 28], b"alice\0", b"\x03abc", b"shop\0"]
                        .concat(),
                )),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["mysql"]),
                (field::MYSQL_VERSION, vec!["8.0.36"]),
                (field::MYSQL_USER, vec!["alice"]),
                (field::MYSQL_DATABASE, vec!["shop"]),
                (field::USER, vec!["alice"]),
            ],
        },
        Conversation {
            name: "postgresql, with tls refused",
            turns: vec![
                client(unhex("00000008 04d2162f")),
                server("N"),
                client(
                    [
                        &unhex("00000038 00030000")[..],
                        b"user\0alice\0database\0shop\0application_name\0psql\0\0",
                    ]
                    .concat(),
                ),
                server("R\0\0\0\x08\0\0\0\0"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["postgresql"]),
                (field::POSTGRESQL_USER, vec!["alice"]),
                (field::POSTGRESQL_DATABASE, vec!["shop"]),
                (field::POSTGRESQL_APPLICATION, vec!["psql"]),
            ],
        },
        Conversation {
            name: "postgresql, with tls",
            turns: vec![
                client(unhex("00000008 04d2162f")),
                server("S"),
                client(&traffic("few", "client")[0]),
            ],
            tells: vec![(field::PROTOCOLS, vec!["postgresql", "tls"]), (field::TLS_HOST, vec!["few.test"])],
        },
        Conversation {
            name: "socks 5, then http",
            turns: vec![
                client([5, 2, 0, 2]),
                server([5, 2]),
                client(b"\x01\x05alice\x02pw"),
                server([1, 0]),
                client(b"\x05\x01\0\x03\x0bexample.ORG\x00\x50"),
                server([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
                client("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["socks", "http"]),
                (field::SOCKS_USER, vec!["alice"]),
                (field::SOCKS_HOST, vec!["example.org"]),
                (field::SOCKS_PORT, vec!["80"]),
                (field::HTTP_HOST, vec!["example.org"]),
            ],
        },
        Conversation {
            name: "mqtt",
            turns: vec![
                client(b"\x10\x17\0\x04MQTT\x04\x82\0\x3c\0\x04me-1\0\x05alice"),
                server(b"\x20\x02\0\0"),
                client(b"\x82\x08\0\x01\0\x03a/#\0\x30\x06\0\x03b/chi"),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["mqtt"]),
                (field::MQTT_CLIENT_ID, vec!["me-1"]),
                (field::MQTT_VERSION, vec!["3.1.1"]),
                (field::USER, vec!["alice"]),
                (field::MQTT_TOPIC, vec!["a/#", "b/c"]),
                (field::MQTT_TYPE, vec!["connect", "connack", "subscribe", "publish"]),
            ],
        },
        Conversation {
            name: "http/2 by prior knowledge",
            turns: vec![
                client(
                    [
                        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
                        &h2_frame(4, 0, 0, &[]),
                        &h2_frame(1, 0, 1, &unhex("828684418cf1e3c2e5")),
                        &h2_frame(9, 4, 1, &unhex("f23a6ba0ab90f4ff")),
                        &h2_frame(0, 1, 1, &[1; 200]),
                        &h2_frame(1, 0x2d, 3, &unhex("02 0000000000 828684be0085 2068616c6c 0178 0000")),
                    ]
                    .concat(),
                ),
                server(
                    [
                        h2_frame(4, 0, 0, &[]),
                        h2_frame(1, 4, 1, &unhex("885f87352398ac5754df")),
                        h2_frame(0, 1, 1, b"body"),
                    ]
                    .concat(),
                ),
            ],
            tells: vec![
                (field::PROTOCOLS, vec!["http2"]),
                (field::HTTP_METHOD, vec!["GET"]),
                (field::HTTP_HOST, vec!["www.example.com"]),
                (field::HTTP_URI, vec!["/"]),
                (field::HTTP_STATUS, vec!["200"]),
            ],
        },
        Conversation {
            name: "tls 1.2 with certificates",
            turns: vec![client(&traffic("tls12_alpn", "client")[0]), server(tls_server_flight(16_000))],
            tells: vec![
                (field::TLS_VERSION, vec!["TLSv1.2"]),
                (field::CERT_SUBJECT_CN, vec!["www.example.org"]),
                (field::CERT_ISSUER_CN, vec!["www.example.org"]),
                (field::CERT_SERIAL, vec!["0abc"]),
                (field::CERT_ALT, vec!["www.example.org"]),
                (field::CERT_COUNT, vec!["1"]),
            ],
        },
        Conversation {
            name: "tls 1.2 with certificates, in small records",
            turns: vec![client(&traffic("tls12_alpn", "client")[0]), server(tls_server_flight(41))],
            tells: vec![
                (field::TLS_VERSION, vec!["TLSv1.2"]),
                (field::CERT_SUBJECT_CN, vec!["www.example.org"]),
            ],
        },
    ]
}

fn conversations() -> Vec<Conversation> {
    let mut all = mail_and_text();
    all.extend(binary());
    all.extend(
        [
            ("bittorrent", &b"\x13BitTorrent protocol\0\0"[..]),
            ("vnc", b"RFB 003.008\n"),
            ("rsync", b"@RSYNCD: 31.0\n"),
            ("redis", b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
            ("memcached", b"stats\r\n"),
            ("x11", b"l\0\x0b\0\0\0\x12\0\x10\0\0\0"),
            ("bgp", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\x1d\x01\x04"),
            ("dcerpc", b"\x05\0\x0b\x03\x10\0\0\0\x48\0\0\0\x01\0\0\0"),
            ("jabber", b"<?xml version='1.0'?><stream:stream to='x' xmlns='jabber:client'>"),
            ("rtsp", b"OPTIONS rtsp://camera/1 RTSP/1.0\r\n\r\n"),
            ("tds", b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06"),
            ("mongodb", b"\x20\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0"),
        ]
        .map(|(name, bytes)| Conversation {
            name,
            turns: vec![client(bytes)],
            tells: vec![(field::PROTOCOLS, vec![name])],
        }),
    );
    all
}

fn heard(conversation: &Conversation, cut: impl Fn(usize, &[u8]) -> Vec<Vec<u8>>) -> Flow {
    let mut flow = Flow::new();
    for (nth, (from_originator, bytes)) in conversation.turns.iter().enumerate() {
        for piece in cut(nth, bytes) {
            flow.inspection.tcp_payload(*from_originator, &piece, &mut flow.out, &mut flow.budget);
        }
    }
    flow
}

#[test]
fn conversations_tell_what_they_should() {
    for conversation in conversations() {
        let flow = heard(&conversation, |_, bytes| vec![bytes.to_vec()]);
        for (field, values) in &conversation.tells {
            assert_eq!(
                &flow.texts(*field),
                values,
                "{}: {:?}",
                conversation.name,
                field::by_id(*field).unwrap().name
            );
        }
    }
}

#[test]
fn conversations_tell_the_same_however_they_are_cut() {
    for conversation in conversations() {
        let whole = heard(&conversation, |_, bytes| vec![bytes.to_vec()]);
        // What is known by one byte after another, and by a cut at each place of each turn. A negotiation that is
        // known by being alone in its segment is left out.
        let bytewise = heard(&conversation, |_, bytes| bytes.iter().map(|byte| vec![*byte]).collect());
        assert_eq!(bytewise.out, whole.out, "{} byte by byte", conversation.name);
        for (cut_turn, (_, bytes)) in conversation.turns.iter().enumerate() {
            // Data that are passed by are not cut everywhere.
            for at in (1..bytes.len()).step_by(1 + bytes.len() / 1500 * 40) {
                let flow = heard(&conversation, |nth, bytes| {
                    if nth == cut_turn {
                        vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
                    } else {
                        vec![bytes.to_vec()]
                    }
                });
                assert_eq!(flow.out, whole.out, "{}: turn {cut_turn} cut at {at}", conversation.name);
            }
        }
    }
}

#[test]
fn ssh_key_exchanges_have_their_hassh_and_the_host_key() {
    let lists = [
        "curve25519-sha256,kex-strict",
        "ssh-ed25519",
        "aes128-ctr",
        "aes256-ctr",
        "hmac-sha1",
        "hmac-sha2-256",
        "none",
        "none,zlib@openssh.com",
    ];
    let key = [&11u32.to_be_bytes()[..], b"ssh-ed25519", &4u32.to_be_bytes(), b"abcd"].concat();
    let reply = ssh_packet(&[&[31][..], &(key.len() as u32).to_be_bytes(), &key, &[0; 20]].concat());
    let conversation = Conversation {
        name: "ssh",
        turns: vec![
            server("SSH-2.0-OpenSSH_9.6\r\n"),
            client([&b"SSH-2.0-client\r\n"[..], &kexinit(lists)].concat()),
            server([kexinit(lists), reply].concat()),
            client(ssh_packet(&[21])),
        ],
        tells: vec![],
    };
    let whole = heard(&conversation, |_, bytes| vec![bytes.to_vec()]);
    let md5 = |text: &str| hex(&Md5::digest(text));
    assert_eq!(
        whole.texts(field::SSH_HASSH),
        [md5("curve25519-sha256,kex-strict;aes128-ctr;hmac-sha1;none")]
    );
    assert_eq!(
        whole.texts(field::SSH_HASSH_SERVER),
        [md5("curve25519-sha256,kex-strict;aes256-ctr;hmac-sha2-256;none,zlib@openssh.com")]
    );
    assert_eq!(whole.texts(field::SSH_KEY), [in_base64(&key)]);
    assert!(whole.inspection.is_done() && whole.holds_nothing());
    let pieces = heard(&conversation, |_, bytes| bytes.chunks(3).map(<[u8]>::to_vec).collect());
    assert_eq!(pieces.out, whole.out);
}

struct Datagram {
    protocol: &'static str,
    ports: [u16; 2],
    bytes: Vec<u8>,
    tells: Vec<(FieldId, Vec<&'static str>)>,
}

fn dhcp() -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..8].copy_from_slice(&[2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    message[16..20].copy_from_slice(&[192, 0, 2, 9]);
    message[28..34].copy_from_slice(&[2, 0, 0x5e, 0x10, 0, 1]);
    message.extend(unhex("63825363 350105 00 0c04486f7374 3204c0000209 3c03616263 ff"));
    message
}

fn datagrams() -> Vec<Datagram> {
    vec![
        Datagram {
            protocol: "dhcp",
            ports: [68, 67],
            bytes: dhcp(),
            tells: vec![
                (field::DHCP_TYPE, vec!["ACK"]),
                (field::DHCP_MAC, vec!["02:00:5e:10:00:01"]),
                (field::DHCP_HOST, vec!["host"]),
                (field::DHCP_ID, vec!["deadbeef"]),
                (field::DHCP_ASSIGNED_IP, vec!["192.0.2.9"]),
                (field::DHCP_REQUEST_IP, vec!["192.0.2.9"]),
                (field::DHCP_CLASS_ID, vec!["abc"]),
            ],
        },
        Datagram {
            protocol: "dhcpv6",
            ports: [546, 547],
            bytes: unhex(
                "01 aabbcc 0001000a 00030001 02005e100001 0027 0007 00 04486f7374 00 \
                 0003 0028 00000001 00000000 00000000 0005 0018 20010db8000000000000000000000007 00000000 00000000",
            ),
            tells: vec![
                (field::DHCP_TYPE, vec!["SOLICIT"]),
                (field::DHCP_MAC, vec!["02:00:5e:10:00:01"]),
                (field::DHCP_HOST, vec!["host"]),
                (field::DHCP_REQUEST_IP, vec!["2001:db8::7"]),
            ],
        },
        Datagram {
            protocol: "snmp",
            ports: [4000, 4001],
            bytes: snmp(b"public"),
            tells: vec![
                (field::SNMP_VERSION, vec!["2"]),
                (field::SNMP_COMMUNITY, vec!["public"]),
                (field::SNMP_TYPE, vec!["GetRequest"]),
                (field::SNMP_VARIABLE, vec!["1.3.6.1.2.1.1.1.0"]),
            ],
        },
        Datagram {
            protocol: "radius",
            ports: [4000, 1812],
            bytes: [
                &unhex("01 07 0034")[..],
                &[9; 16],
                b"\x01\x07alice",
                &unhex("0806c0000205"),
                b"\x1f\x1302-00-5E-10-00-01",
            ]
            .concat(),
            tells: vec![
                (field::RADIUS_TYPE, vec!["access-request"]),
                (field::RADIUS_USER, vec!["alice"]),
                (field::RADIUS_FRAMED_IP, vec!["192.0.2.5"]),
                (field::RADIUS_MAC, vec!["02:00:5e:10:00:01"]),
                (field::USER, vec!["alice"]),
            ],
        },
        Datagram {
            protocol: "tftp",
            ports: [4000, 69],
            bytes: b"\0\x01boot/pxe.0\0octet\0blksize\x001456\0".to_vec(),
            tells: vec![(field::TFTP_FILENAME, vec!["boot/pxe.0"]), (field::TFTP_OPCODE, vec!["read"])],
        },
        Datagram {
            protocol: "syslog",
            ports: [4000, 514],
            bytes: b"<165>1 2026-01-31T12:00:00Z host app - - - hello".to_vec(),
            tells: vec![(field::SYSLOG_FACILITY, vec!["local4"]), (field::SYSLOG_SEVERITY, vec!["notice"])],
        },
        Datagram {
            protocol: "stun",
            ports: [4000, 3478],
            // RFC 5769 §2.2's mapped address, without its integrity.
            bytes: unhex("0101000c 2112a442 b7e7a701bc34d686fa87dfae 00200008 0001a147e112a643"),
            tells: vec![
                (field::STUN_TYPE, vec!["binding success"]),
                (field::STUN_MAPPED_IP, vec!["192.0.2.1"]),
            ],
        },
        Datagram {
            protocol: "nbns",
            ports: [137, 137],
            bytes: [
                &unhex("0001 0110 0001 0000 0000 0000 20")[..],
                b"FHEPFCELEHFCEPFFFACACACACACACABL",
                &unhex("00 0020 0001"),
            ]
            .concat(),
            tells: vec![(field::NBNS_NAME, vec!["WORKGROUP"])],
        },
        Datagram {
            protocol: "krb5",
            ports: [4000, 88],
            bytes: as_request(),
            tells: vec![(field::KRB5_CNAME, vec!["alice"])],
        },
        Datagram {
            protocol: "ldap",
            ports: [4000, 389],
            bytes: ldap_bind(),
            tells: vec![(field::LDAP_BIND_NAME, vec!["cn=admin,dc=example"])],
        },
        Datagram {
            protocol: "sip",
            ports: [5060, 5060],
            bytes: b"REGISTER sip:example.org SIP/2.0\r\nAuthorization: Digest username=\"alice\"\r\n\r\n"
                .to_vec(),
            tells: vec![(field::SIP_METHOD, vec!["REGISTER"]), (field::SIP_USER, vec!["alice"])],
        },
        Datagram {
            protocol: "ssdp",
            ports: [4000, 1900],
            bytes: b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: ssdp:all\r\n\r\n".to_vec(),
            tells: vec![(field::HTTP_METHOD, vec!["M-SEARCH"])],
        },
        Datagram {
            protocol: "dtls",
            ports: [4000, 4001],
            bytes: unhex("16feff 0000 000000000000 0004 01000000"),
            tells: vec![],
        },
        Datagram {
            protocol: "wireguard",
            ports: [4000, 4001],
            bytes: [&[1, 0, 0, 0][..], &[7; 144]].concat(),
            tells: vec![],
        },
        Datagram {
            protocol: "isakmp",
            ports: [4500, 4500],
            bytes: unhex("00000000 0102030405060708 0000000000000000 21 20 22 08 00000000 0000001c"),
            tells: vec![],
        },
        Datagram {
            protocol: "bittorrent",
            ports: [4000, 4001],
            bytes: b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".to_vec(),
            tells: vec![],
        },
        Datagram {
            protocol: "memcached",
            ports: [4000, 11_211],
            bytes: b"\0\0\0\0\0\x01\0\0stats\r\n".to_vec(),
            tells: vec![],
        },
    ]
}

#[test]
fn datagrams_tell_what_they_should() {
    for datagram in datagrams() {
        let mut flow = Flow::new();
        flow.udp(true, datagram.ports, &datagram.bytes);
        assert_eq!(flow.texts(field::PROTOCOLS), [datagram.protocol]);
        for (field, values) in &datagram.tells {
            assert_eq!(&flow.texts(*field), values, "{}", datagram.protocol);
        }
    }
}

/// Both versions in one flow: what was charged for the tables comes back.
#[test]
fn http_1_beside_http_2_gives_everything_back() {
    let mut flow = Flow::new();
    flow.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let headers = h2_frame(1, 4, 1, &unhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"));
    flow.client(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &headers].concat());
    flow.server(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(flow.texts(field::HTTP_HOST), ["www.example.com"]);
    flow.inspection.release(&mut flow.budget);
    assert!(flow.holds_nothing());
}

#[test]
fn an_answer_that_amplifies_is_flagged() {
    let mut flow = Flow::new();
    let answer = [&[0x97, 0, 3, 42][..], &[0; 436]].concat();
    flow.udp(true, [4000, 123], &[0x17, 0, 3, 42, 0, 0, 0, 0]).udp(false, [123, 4000], &answer);
    assert_eq!(flow.texts(field::NTP_AMPLIFICATION), ["1"]);
    let mut flow = Flow::new();
    let request = [&[0x17, 0, 3, 42][..], &[0; 188]].concat();
    flow.udp(true, [4000, 123], &request).udp(false, [123, 4000], &answer);
    assert!(flow.texts(field::NTP_AMPLIFICATION).is_empty());
}

#[test]
fn noise_is_nothing() {
    // Text, numbers and blanks of no protocol: nothing may be recognised.
    for bytes in [
        &b"hello world\r\n"[..],
        b"A simple line of text\r\n",
        b"220\r\n",
        b"NICK of time is a phrase\r\n",
        b"USER manual\r\n",
        b"<html><body>",
        b"*** start ***\r\n",
        b"\x04\x01\x02\x03",
        b"\x05\x01\x00extra",
        b"\x00\x00\x00\x10abcdefghijklmnop",
        b"0123456789",
        b"\x03\x00\x00\x16\x11\xe0\0\0\0\x01\0\xc1\x02\x01\0\xc2\x02\x01\x02\xc0\x01\x0a",
        &[0; 64],
        &[0xff; 15],
    ] {
        let mut flow = Flow::new();
        flow.client(bytes);
        assert!(flow.out.is_empty(), "{bytes:?}: {:?}", flow.out);
        let mut flow = Flow::new();
        flow.udp(true, [4000, 4001], bytes);
        assert!(flow.out.is_empty(), "{bytes:?}: {:?}", flow.out);
    }
}

fn any_turns() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let all: Vec<_> = conversations().into_iter().map(|conversation| conversation.turns).collect();
    let spoil = prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..4u8),
        0..6,
    );
    (prop::sample::select(all), spoil).prop_map(|(mut turns, changes)| {
        for (turn, at, byte, how) in changes {
            let turn = turn.index(turns.len());
            let (_, bytes) = &mut turns[turn];
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        turns
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn spoiled_conversations_break_no_bound(
        turns in any_turns(),
        piece in 1..3000usize,
        swap in any::<bool>(),
        small in any::<bool>(),
    ) {
        let budget = if small { 2048 } else { BUDGET };
        let mut flow = Flow { budget: BufferBudget::new(budget), ..Flow::new() };
        for (from_originator, bytes) in turns {
            for bytes in bytes.chunks(piece) {
                flow.inspection.tcp_payload(from_originator != swap, bytes, &mut flow.out, &mut flow.budget);
                prop_assert!(budget - flow.budget.left() <= 2 * HELD_BYTES_MAX + http2::STATE_BYTES);
            }
        }
        flow.inspection.release(&mut flow.budget);
        prop_assert_eq!(flow.budget.left(), budget);
        prop_assert!(flow.out.len() <= Attributes::COUNT_MAX);
    }

    #[test]
    fn spoiled_datagrams_break_nothing(
        nth in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut all = datagrams();
        let datagram = all.swap_remove(nth.index(all.len()));
        let mut bytes = datagram.bytes;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut flow = Flow::new();
        flow.udp(true, datagram.ports, &bytes);
        flow.udp(false, datagram.ports, &bytes[..cut.index(bytes.len())]);
        flow.inspection.release(&mut flow.budget);
        prop_assert!(flow.holds_nothing());
    }
}
