//! Agents and people by certificate, from the files that `gnomon-collector certs` makes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::fleet::{
    Agent, Collector, authority, built_binaries, eventually, tls_settings as settings,
};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::skip;
use gnomon_integration_tests::traffic;

#[test]
fn only_certificates_of_the_authority_may_send_and_search() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let names = "localhost,127.0.0.1";
    authority(&bin_dir, &ours, names, &["web1"])?;
    authority(&bin_dir, &theirs, names, &["web1"])?;
    let with = settings(&ours, "collector");
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &with)?;
    let server = format!("https://{}", collector.grpc);
    // `gnomon`, with somebody's certificate: exit code and what it said.
    let gnomon = |certificates: Option<&Path>, command: &[&str]| -> Result<(i32, String)> {
        let mut gnomon = Command::new(bin_dir.join("gnomon"));
        gnomon.arg("--server").arg(&server).arg("--ca").arg(ours.join("ca.crt")).args(command);
        if let Some(dir) = certificates {
            gnomon.arg("--cert").arg(dir.join("client-you.crt")).arg("--key").arg(dir.join("client-you.key"));
        }
        let output = gnomon.stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code().context("gnomon was killed")?, String::from_utf8_lossy(&said).into_owned()))
    };
    let count = ["count", "port.dst == 9", "-o", "jsonl"];

    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let url = format!("https://{}", link.address());
    let agent = |name: &str, certificates: &Path| -> Result<Agent> {
        let with = settings(certificates, "agent-web1");
        let mut with: Vec<&str> = with.iter().map(String::as_str).collect();
        // Whoever it is, it knows the collector.
        let ca = format!("tls.ca={}", ours.join("ca.crt").display());
        with[0] = &ca;
        let interface = r#"name = "tap", stance = "host""#;
        Agent::start(&bin_dir, &dir.path().join(name), Some(&sensor), interface, &url, &with)
    };
    let packets = || -> Result<u64> {
        traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], 9)), 1, 60, 0)?;
        let (_, said) = gnomon(Some(&ours), &count)?;
        let answer: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        answer["packets"].as_u64().with_context(|| said)
    };

    let mut stranger = agent("stranger", &theirs)?;
    for _ in 0..30 {
        assert_eq!(packets()?, 0, "a stranger's packets were taken");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    ensure!(!stranger.process()?.has_ended()?, "a refused agent goes on capturing");
    drop(stranger);
    let _agent = agent("web1", &ours)?;
    eventually("packets of an agent with a certificate are found", 30, packets, |n| *n > 0)?;

    for (whose, who) in
        [(None, "without a certificate"), (Some(theirs.as_path()), "with another authority's")]
    {
        let (code, said) = gnomon(whose, &count)?;
        assert_eq!(code, 4, "somebody {who} was answered: {said}");
        assert!(said.contains("certificate"), "{said}");
    }
    Ok(())
}
