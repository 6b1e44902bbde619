//! A real Suricata beside the programs under test: `deploy/suricata-parts.sh` fetches it into the cache, outside the
//! checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::fleet::{Process, eventually};
use crate::netns::Netns;

const FOLDER: &str = "gnomon-ci/suricata/parts-1";

/// The unpacked Suricata.
#[derive(Clone, Debug)]
pub struct Suricata {
    parts: PathBuf,
}

impl Suricata {
    /// It, or why there is none here: to be printed by the test that is skipped.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn find() -> Result<Suricata, String> {
        let parts = cache::parts(FOLDER, "Suricata is", "deploy/suricata-parts.sh")?;
        Ok(Suricata { parts })
    }

    /// `7.0.10`, as it says.
    pub fn version(&self) -> Result<String> {
        let output = self.command(Command::new(self.program())).arg("-V").output().context("run suricata")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.split_whitespace().find(|word| word.contains('.')).unwrap_or(&text).to_owned())
    }

    fn program(&self) -> PathBuf {
        self.parts.join("usr/bin/suricata")
    }

    fn command(&self, mut command: Command) -> Command {
        let libraries = fs::read_to_string(self.parts.join("libraries")).unwrap_or_default();
        command.env("LD_LIBRARY_PATH", self.parts.join(libraries.trim()));
        command
    }

    /// Writes `rules` and a configuration, with EVE of alerts, flows and HTTP in `dir/eve.json`.
    fn configure(&self, dir: &Path, rules: &str) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(dir)?;
        let (config, rule_file) = (dir.join("suricata.yaml"), dir.join("test.rules"));
        let classes = self.parts.join("etc/suricata/classification.config");
        fs::write(
            &config,
            format!(
                "%YAML 1.1\n---\nvars:\n  address-groups: {{ HOME_NET: any, EXTERNAL_NET: any }}\n\
                 default-log-dir: {}\nclassification-file: {}\n\
                 outputs:\n  - eve-log:\n      enabled: yes\n      filetype: regular\n      filename: eve.json\n\
                 \x20     community-id: true\n      community-id-seed: 7\n      types: [alert, flow, http]\n\
                 app-layer:\n  protocols:\n    http: {{ enabled: yes }}\n    dns: {{ udp: {{ enabled: yes }} }}\n\
                 unix-command: {{ enabled: no }}\n",
                dir.display(),
                classes.display()
            ),
        )?;
        fs::write(&rule_file, rules)?;
        Ok([config, rule_file])
    }

    /// Runs it on an interface inside a namespace until the process is dropped; back once it looks at packets.
    pub fn watch(&self, netns: &Netns, interface: &str, dir: &Path, rules: &str) -> Result<Process> {
        let [config, rule_file] = self.configure(dir, rules)?;
        let mut command = self.command(netns.command(self.program()));
        command.arg("-c").arg(config).arg("-S").arg(rule_file).arg("-l").arg(dir).args(["-k", "none"]);
        command.arg(format!("--af-packet={interface}")).arg("--pidfile").arg(dir.join("pid"));
        let process = Process::spawn(command, dir.join("said"))?;
        eventually("Suricata watches", 60, || Ok(process.said()), |said| said.contains("Engine started"))?;
        Ok(process)
    }

    /// Lets it read a capture file to its end. The alerts are in `dir/eve.json` then.
    pub fn read(&self, file: &Path, dir: &Path, rules: &str) -> Result<()> {
        let [config, rule_file] = self.configure(dir, rules)?;
        let mut command = self.command(Command::new(self.program()));
        command.arg("-c").arg(config).arg("-S").arg(rule_file).arg("-l").arg(dir).args(["-k", "none"]);
        let output = command.arg("-r").arg(file).output().context("run suricata")?;
        anyhow::ensure!(output.status.success(), "suricata: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
