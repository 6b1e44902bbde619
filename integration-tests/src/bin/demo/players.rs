//! Real programs talking over the network: servers that stay, and what clients do with them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_integration_tests::hub::Hub;
use gnomon_integration_tests::netns::Netns;

/// Programs that run until they are dropped.
#[derive(Default)]
pub(crate) struct Servers(Vec<Child>);

impl Servers {
    fn start(&mut self, command: &mut Command) -> Result<()> {
        let name = format!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0.push(child.with_context(|| format!("start {name}"))?);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// HTTP, DNS, TLS, an SSH-like banner and a bulk transfer, all on the server's address.
pub(crate) fn serve(network: &Hub, dir: &Path) -> Result<Servers> {
    let mut servers = Servers::default();
    let web = dir.join("web");
    fs::create_dir_all(&web)?;
    fs::write(web.join("index.html"), "<h1>the shop</h1>\n")?;
    fs::write(web.join("prices.csv"), "what,cents\n".to_owned() + &"apple,30\n".repeat(2_000))?;
    let server = &network.server;
    servers.start(server.command("busybox").args(["httpd", "-f", "-p", "10.77.0.20:80", "-h"]).arg(&web))?;
    servers.start(server.command("dnsmasq").args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--user=root",
        "--listen-address=10.77.0.20",
        "--bind-interfaces",
        "--address=/shop.example/10.77.0.20",
        "--address=/secure.example/10.77.0.20",
    ]))?;
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=secure.example", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run openssl")?;
    anyhow::ensure!(made.success(), "openssl made no certificate: {made}");
    servers.start(
        server
            .command("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", "10.77.0.20:443", "-cert"])
            .arg(&cert)
            .arg("-key")
            .arg(&key),
    )?;
    let banner = "while :; do printf 'SSH-2.0-OpenSSH_9.9 demo\\r\\n' | nc -l -q 1 -s 10.77.0.20 -p 22; done";
    servers.start(server.command("sh").args(["-c", banner]))?;
    servers.start(server.command("iperf3").args(["--server", "--bind", "10.77.0.20"]))?;
    thread::sleep(Duration::from_millis(700));
    Ok(servers)
}

fn quietly(netns: &Netns, program: &str, arguments: &[&str]) {
    let mut command = netns.command(program);
    // What a client makes of the answer is not the demo's business: its packets are.
    let _ = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// One round of everyday traffic.
pub(crate) fn everyday(client: &Netns) {
    quietly(client, "dig", &["+tries=1", "+time=1", "@10.77.0.20", "shop.example"]);
    quietly(client, "dig", &["+tries=1", "+time=1", "@10.77.0.20", "MX", "no-such-name.example"]);
    for path in ["/", "/prices.csv", "/missing"] {
        let url = format!("http://shop.example{path}");
        let resolve = "shop.example:80:10.77.0.20";
        quietly(client, "curl", &["-s", "-m", "3", "-A", "demo-browser/1.0", "--resolve", resolve, &url]);
    }
    let resolve = "secure.example:443:10.77.0.20";
    quietly(client, "curl", &["-sk", "-m", "3", "--resolve", resolve, "https://secure.example/"]);
    quietly(client, "sh", &["-c", "printf 'SSH-2.0-demo_client\\r\\n' | nc -w 1 10.77.0.20 22"]);
    quietly(client, "ping", &["-c", "2", "-i", "0.2", "10.77.0.20"]);
}

/// Knock on many ports, as scanners do.
pub(crate) fn scan(client: &Netns) {
    quietly(client, "nc", &["-z", "-n", "-w", "1", "10.77.0.21", "1000-1199"]);
}

/// A bulk transfer in jumbo frames with segmentation offload on.
pub(crate) fn bulk(client: &Netns, mebibytes: u32) {
    quietly(client, "iperf3", &["--client", "10.77.0.20", "--bytes", &format!("{mebibytes}M")]);
}

/// One datagram over the quiet link, with a text to find it by.
pub(crate) fn lonely(network: &Hub, text: &str) {
    quietly(
        &network.lonely,
        "sh",
        &["-c", &format!("printf '{text}' | nc -u -q 0 -w 1 -p 7007 10.77.0.20 7007")],
    );
}
