//! A real Suricata beside the programs under test: `deploy/suricata-parts.sh` fetches them into the cache, outside the
//! checkout.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::fleet::{Process, eventually};
use crate::netns::Netns;

/// What the script fetches, by its major version.
const RELEASES: [(u32, &str); 2] =
    [(7, "gnomon-ci/suricata/trixie-1"), (8, "gnomon-ci/suricata/trixie-backports-1")];

/// An unpacked Suricata, with the loader and the libraries of the release it is of.
#[derive(Clone, Debug)]
pub struct Suricata {
    loader: PathBuf,
    /// The loader's arguments: Suricata's own come behind them.
    words: [OsString; 3],
    parts: PathBuf,
}

impl Suricata {
    /// That of a major version; without one here, says why, so that the test counts as skipped.
    pub fn found(major: u32) -> Option<Suricata> {
        Suricata::find(major).map_err(|why| eprintln!("SKIPPED: {why}")).ok()
    }

    fn find(major: u32) -> Result<Suricata, String> {
        let known = RELEASES.iter().find(|(known, _)| *known == major);
        let (_, folder) = known.ok_or_else(|| format!("Suricata {major} is not among those fetched"))?;
        let parts = cache::parts(folder, &format!("Suricata {major} is"), "deploy/suricata-parts.sh")?;
        let loader =
            fs::read_to_string(parts.join("loader")).map_err(|error| format!("its loader: {error}"))?;
        let (loader, libraries) = loader.trim().split_once('\n').ok_or("its loader is not written down")?;
        let words =
            ["--library-path".into(), parts.join(libraries).into(), parts.join("usr/bin/suricata").into()];
        Ok(Suricata { loader: parts.join(loader), words, parts })
    }

    /// `7.0.10`, as it says.
    pub fn version(&self) -> Result<String> {
        let output = self.command(Command::new(&self.loader)).arg("-V").output().context("run suricata")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.split_whitespace().find(|word| word.contains('.')).unwrap_or(&text).to_owned())
    }

    /// Of the loader's command, Suricata's.
    fn command(&self, mut loader: Command) -> Command {
        loader.args(&self.words);
        loader
    }

    /// Writes `rules` and a configuration, with EVE of alerts, flows (and all that may stand in them) and HTTP in
    /// `dir/eve.json`.
    fn configure(&self, dir: &Path, rules: &str, seed: u16) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(dir)?;
        let (config, rule_file) = (dir.join("suricata.yaml"), dir.join("test.rules"));
        let classes = self.parts.join("etc/suricata/classification.config");
        fs::write(
            &config,
            format!(
                "%YAML 1.1\n---\nsensor-name: s0\nvars:\n  address-groups: {{ HOME_NET: any, EXTERNAL_NET: any }}\n\
                 default-log-dir: {}\nclassification-file: {}\n\
                 outputs:\n  - eve-log:\n      enabled: yes\n      filetype: regular\n      filename: eve.json\n\
                 \x20     community-id: true\n      community-id-seed: {seed}\n      ethernet: yes\n      types: [alert, flow, http]\n\
                 app-layer:\n  protocols:\n    http: {{ enabled: yes }}\n    dns: {{ udp: {{ enabled: yes }} }}\n    tls: {{ enabled: yes }}\n\
                 unix-command: {{ enabled: no }}\n",
                dir.display(),
                classes.display()
            ),
        )?;
        fs::write(&rule_file, rules)?;
        Ok([config, rule_file])
    }

    /// Runs it on an interface inside a namespace until the process is dropped; back once it looks at packets. The
    /// Community IDs that it writes are made with a seed of its own.
    pub fn watch(&self, netns: &Netns, interface: &str, dir: &Path, rules: &str) -> Result<Process> {
        let [config, rule_file] = self.configure(dir, rules, 7)?;
        let mut command = self.command(netns.command(&self.loader));
        command.arg("-c").arg(config).arg("-S").arg(rule_file).arg("-l").arg(dir).args(["-k", "none"]);
        command.arg(format!("--af-packet={interface}")).arg("--pidfile").arg(dir.join("pid"));
        let process = Process::spawn(command, dir.join("said"))?;
        eventually("Suricata watches", 60, || Ok(process.said()), |said| said.contains("Engine started"))?;
        Ok(process)
    }

    /// Lets it read a capture file to its end. Alerts, and flows with the Community IDs that everyone makes, are in
    /// `dir/eve.json` then.
    pub fn read(&self, file: &Path, dir: &Path, rules: &str) -> Result<()> {
        let [config, rule_file] = self.configure(dir, rules, 0)?;
        let mut command = self.command(Command::new(&self.loader));
        command.arg("-c").arg(config).arg("-S").arg(rule_file).arg("-l").arg(dir).args(["-k", "none"]);
        let output = command.arg("-r").arg(file).output().context("run suricata")?;
        anyhow::ensure!(output.status.success(), "suricata: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
