//! What `run` refuses, `config check` refuses too, in the same words and with the same exit code, and every key that the
//! words name is one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use gnomon_integration_tests::fleet::built_binaries;

/// `EX_CONFIG`: systemd does not start it again.
const CONFIG: i32 = 78;

struct Program<'a> {
    path: std::path::PathBuf,
    dir: &'a Path,
    keys: BTreeSet<String>,
}

impl Program<'_> {
    fn new<'a>(bin_dir: &Path, name: &str, dir: &'a Path) -> Result<Program<'a>> {
        let path = bin_dir.join(name);
        let shown = Command::new(&path).args(["config", "show", "--config", "/dev/null"]).output()?;
        let text = String::from_utf8(shown.stdout)?;
        let key = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.split([' ', '=']).next().unwrap_or_default().to_owned()
        };
        let keys: BTreeSet<String> = text.lines().map(key).collect();
        ensure!(keys.contains("tls.ca"), "{text}");
        Ok(Program { path, dir, keys })
    }

    fn say(&self, words: &[&str], settings: &[String]) -> Result<(Option<i32>, String)> {
        let mut command = Command::new("timeout");
        command.arg("20").arg(&self.path).args(words).arg("--config").arg("/dev/null");
        for dir in ["state_dir", "data_dir"].iter().filter(|key| self.keys.contains(**key)) {
            command.arg("--set").arg(format!("{dir}={}", self.dir.join("state").display()));
        }
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let output = command.stdin(Stdio::null()).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Both refuse it, and say the same of `about`.
    fn refuses(&self, settings: &[String], about: &str) -> Result<()> {
        let (checked, ran) = (self.say(&["config", "check"], settings)?, self.say(&["run"], settings)?);
        ensure!(checked.0 == Some(CONFIG), "config check {settings:?}: {checked:?}");
        ensure!(ran.0 == Some(CONFIG), "run {settings:?}: {ran:?}");
        let error = |text: &str| text.lines().find(|line| line.starts_with("error: ")).map(str::to_owned);
        ensure!(error(&checked.1).is_some() && error(&checked.1) == error(&ran.1), "{checked:?}, {ran:?}");
        ensure!(checked.1.contains(about), "{settings:?}: {} instead of {about}", checked.1);
        let sections: BTreeSet<&str> = self.keys.iter().filter_map(|key| key.split('.').next()).collect();
        for word in checked.1.split(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c))) {
            let word = word.trim_matches('.');
            let Some((section, rest)) = word.split_once('.') else { continue };
            // A host of a URL or a file is no key, though it may begin like one.
            let named = sections.contains(section)
                && rest.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c));
            let of_ours = named
                && !["example", "crt", "key", "pem"]
                    .iter()
                    .any(|end| word.ends_with(end) && !self.keys.contains(word));
            ensure!(!of_ours || self.keys.contains(word), "{word} is no key: {}", checked.1);
        }
        // Causes are said once.
        for cause in ["No such file or directory", "PEM form"] {
            ensure!(checked.1.matches(cause).count() <= 1, "twice: {}", checked.1);
        }
        Ok(())
    }
}

#[test]
fn what_an_agent_refuses_to_run_with_its_check_refuses_too() -> Result<()> {
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let certs = certificates(&bin_dir, dir.path())?;
    let agent = Program::new(&bin_dir, "gnomon-agent", dir.path())?;
    let file = |name: &str| certs.join(name).display().to_string();
    let urls = |url: &str| format!("collector.urls=[\"{url}\"]");
    let (ca, here) = (format!("tls.ca={}", file("ca.crt")), "https://127.0.0.1:1");
    let pair = |certificate: &str, key: &str| {
        vec![
            urls(here),
            ca.clone(),
            format!("tls.certificate={}", file(certificate)),
            format!("tls.key={}", file(key)),
        ]
    };
    for (settings, about) in [
        (vec![urls("collector.example:7440")], "collector.urls"),
        (vec![urls("ftp://collector.example")], "https://"),
        (vec![urls("http://192.0.2.1:7440")], "tls.insecure"),
        (vec![urls("http://localhost.example:7440")], "tls.insecure"),
        (vec![urls("https://192.0.2.1:7440")], "tls.ca"),
        (vec![urls(here), "tls.ca=/nonexistent/ca.crt".to_owned()], "/nonexistent/ca.crt"),
        (vec![urls(here), format!("tls.ca={}", file("ca.key"))], "tls.ca"),
        (pair("agent-a.crt", "none.key"), "tls.key"),
        (pair("agent-a.crt", "agent-b.key"), "tls"),
        (pair("agent-a.key", "agent-a.key"), "tls"),
    ] {
        agent.refuses(&settings, about)?;
    }
    let good = agent.say(&["config", "check"], &pair("agent-a.crt", "agent-a.key"))?;
    ensure!(good.0 == Some(0), "{good:?}");
    Ok(())
}

#[test]
fn what_a_collector_refuses_to_run_with_its_check_refuses_too() -> Result<()> {
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let certs = certificates(&bin_dir, dir.path())?;
    let collector = Program::new(&bin_dir, "gnomon-collector", dir.path())?;
    let file = |name: &str| certs.join(name).display().to_string();
    let tls = |ca: &str, certificate: &str, key: &str| {
        vec![
            "listen.grpc=127.0.0.1:0".to_owned(),
            "listen.http=127.0.0.1:0".to_owned(),
            format!("tls.ca={}", file(ca)),
            format!("tls.certificate={}", file(certificate)),
            format!("tls.key={}", file(key)),
        ]
    };
    for (settings, about) in [
        (vec!["listen.grpc=0.0.0.0:0".to_owned()], "tls.insecure"),
        (tls("none.crt", "collector.crt", "collector.key"), "tls.ca"),
        (tls("ca.key", "collector.crt", "collector.key"), "tls.ca"),
        (tls("ca.crt", "collector.key", "collector.key"), "tls.certificate"),
        (tls("ca.crt", "collector.crt", "agent-a.key"), "tls.key"),
        (vec!["enrich.country_db=/nonexistent/x.mmdb".to_owned()], "enrich.country_db"),
        (vec![format!("enrich.asn_db={}", file("ca.crt"))], "enrich.asn_db"),
        (vec![format!("enrich.oui_file={}", file("ca.crt"))], "enrich.oui_file"),
    ] {
        collector.refuses(&settings, about)?;
    }
    let good = collector.say(&["config", "check"], &tls("ca.crt", "collector.crt", "collector.key"))?;
    ensure!(good.0 == Some(0), "{good:?}");
    Ok(())
}

fn certificates(bin_dir: &Path, dir: &Path) -> Result<std::path::PathBuf> {
    let out = dir.join("certs");
    let mut certs = Command::new(bin_dir.join("gnomon-collector"));
    certs.arg("certs").arg("--out").arg(&out).args(["--collector-name", "localhost"]);
    ensure!(certs.args(["--agent", "a", "--agent", "b"]).output()?.status.success(), "certs");
    Ok(out)
}
