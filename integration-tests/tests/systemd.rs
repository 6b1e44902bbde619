//! Both daemons under a real systemd, by the units that are shipped: started, reloaded, refused a reload, stopped.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use gnomon_integration_tests::fleet::built_binaries;

#[test]
fn systemd_starts_reloads_and_stops_both_daemons_by_their_units() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/boot.sh");
    let done = Command::new(script).arg(built_binaries()?).output()?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if done.status.code() == Some(77) {
        eprintln!("{said}");
        return Ok(());
    }
    ensure!(done.status.success(), "{said}");
    Ok(())
}
