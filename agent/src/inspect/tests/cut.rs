//! Messages whose end was not captured are told as far as they were read, and marked.

use super::*;

fn is_prefix_of_one(found: &str, whole: &[String]) -> bool {
    whole.iter().any(|text| text.starts_with(found))
}

#[test]
fn a_hello_cut_anywhere_is_tls_with_what_was_read_and_no_fingerprint() {
    for (name, ..) in FINGERPRINTS {
        for (side, from_originator, bytes) in
            [("client", true, &traffic(name, "client")[0]), ("server", false, &traffic(name, "server")[0])]
        {
            let mut whole = Flow::new();
            whole.inspection.tcp_payload(from_originator, bytes, &mut whole.out, &mut whole.budget);
            let hello = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            // The messages behind a hello in a record of its own are others'.
            let end = bytes.len().min(hello);
            for cut in 0..end {
                let mut flow = Flow::new();
                flow.inspection.tcp_payload(from_originator, &bytes[..cut], &mut flow.out, &mut flow.budget);
                flow.inspection.conclude(&mut flow.out, &mut flow.budget);
                assert!(flow.holds_nothing());
                for field in [field::TLS_HOST, field::TLS_ALPN, field::TLS_CIPHER, field::TLS_VERSION] {
                    for text in flow.texts(field) {
                        assert!(is_prefix_of_one(&text, &whole.texts(field)), "{name} {side} {cut}: {text}");
                    }
                }
                for field in [field::TLS_JA3, field::TLS_JA3S, field::TLS_JA4] {
                    assert!(flow.texts(field).is_empty(), "{name} {side} {cut}");
                }
                let is_told = cut >= if from_originator { 11 } else { 46 };
                let expected: &[&str] = if is_told { &["tls"] } else { &[] };
                if side == "client" || !(46..=80).contains(&cut) {
                    assert_eq!(flow.texts(field::INSPECT_CUT), expected, "{name} {side} cut at {cut}");
                }
            }
            // Three bytes short: everything but the last extension's end.
            let mut flow = Flow::new();
            flow.inspection.tcp_payload(from_originator, &bytes[..end - 3], &mut flow.out, &mut flow.budget);
            flow.inspection.tcp_gap(from_originator, 3, &mut flow.out, &mut flow.budget);
            assert_eq!(flow.texts(field::TLS_HOST), whole.texts(field::TLS_HOST), "{name} {side}");
        }
    }
}

#[test]
fn a_head_cut_anywhere_is_told_as_far_as_it_goes_and_the_answers_stay_with_their_questions() {
    const HEAD: &[u8] =
        b"HEAD /a/long/path?q=1 HTTP/1.1\r\nHost: www.example\r\nUser-Agent: curl/8.1\r\n\r\n";
    for cut in 6..HEAD.len() {
        let mut flow = Flow::new();
        flow.client(&HEAD[..cut]);
        flow.inspection.tcp_gap(true, (HEAD.len() - cut) as u64, &mut flow.out, &mut flow.budget);
        assert_eq!(flow.texts(field::PROTOCOLS), ["http"], "cut at {cut}");
        assert_eq!(flow.texts(field::INSPECT_CUT), ["http"], "cut at {cut}");
        assert_eq!(flow.texts(field::HTTP_METHOD), ["HEAD"]);
        assert!(is_prefix_of_one(&flow.texts(field::HTTP_URI)[0], &["/a/long/path?q=1".to_owned()]));
        for host in flow.texts(field::HTTP_HOST) {
            assert!("www.example".starts_with(&host), "{host}");
        }
        // The answer to HEAD has no body, whatever it says; the next one is another request's.
        flow.server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(flow.texts(field::HTTP_STATUS), ["200", "404"], "cut at {cut}");
    }
}

#[test]
fn a_response_cut_in_its_head_is_the_answer_to_its_own_request() {
    let mut flow = Flow::new();
    flow.client(b"HEAD /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\n\r\n");
    flow.server(b"HTTP/1.1 204 No Content\r\nServer: ngi");
    flow.inspection.tcp_gap(false, 500, &mut flow.out, &mut flow.budget);
    // GET's answer has a body, which is passed over.
    flow.server(b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nHTTP/1.1 500 In the body\r\n\r\n");
    assert_eq!(flow.texts(field::HTTP_STATUS), ["204", "200"]);
    assert_eq!(flow.texts(field::HTTP_SERVER), ["ngi"]);
}

#[test]
fn lines_and_datagrams_that_were_cut_are_told() {
    let mut flow = Flow::new();
    flow.server(b"220 mail.example ESMTP\r\n").client(b"EHLO me.example\r\nMAIL FROM:<someone@exam");
    flow.inspection.conclude(&mut flow.out, &mut flow.budget);
    assert_eq!(flow.texts(field::INSPECT_CUT), ["smtp"]);
    assert!(
        flow.texts(field::EMAIL_SRC).iter().any(|from| from.starts_with("someone@exam")),
        "{:?}",
        flow.out
    );

    let mut flow = Flow::new();
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    let sides = [4000, 53];
    flow.inspection.udp_payload(true, sides, query, true, &mut flow.out, &mut flow.budget);
    assert_eq!(
        (flow.texts(field::INSPECT_CUT), flow.texts(field::DNS_HOST)),
        (vec!["dns".to_owned()], vec!["www.example".to_owned()])
    );
}

#[test]
fn keep_alives_and_preambles_use_up_no_try() {
    let mut flow = Flow::new();
    for _ in 0..40 {
        flow.udp(true, [5060, 5060], b"\r\n\r\n").udp(true, [5060, 5060], b"\0");
        flow.client(b"\r\n");
    }
    flow.udp(true, [5060, 5060], b"OPTIONS sip:a@b.example SIP/2.0\r\nCall-ID: 7\r\n\r\n");
    assert_eq!(flow.texts(field::SIP_CALL_ID), ["7"]);
    let mut flow = Flow::new();
    for _ in 0..40 {
        flow.client(b"\r\n");
    }
    flow.client(b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\nGET /behind HTTP/1.1\r\n\r\n");
    flow.server(b"Be warned.\r\nGo away.\r\nSSH-2.0-none\r\n");
    assert_eq!(flow.texts(field::HTTP_URI), ["/behind"]);
}
