//! The systemd unit, as far as systemd's own tools judge it without running it.

use anyhow::Context as _;
use lab::temp::TempDir;

use super::{accepted, place};
use crate::repository::{path, run_tool, text};

const UNIT: &str = "ratelimiter-exporter.service";

/// The most exposed that the unit may be, in tenths on systemd's scale from 0 (best) to 10.
const EXPOSURE: &str = "--threshold=12";

#[test]
fn systemd_finds_the_unit_valid_and_hardened() -> anyhow::Result<()> {
    let folder = TempDir::new("unit")?;
    let unit = text(&format!("deploy/systemd/{UNIT}"))?.replace(
        "/usr/local/bin/ratelimiter-exporter",
        &lab::exporter_binary().display().to_string(),
    );
    let placed = folder.path().join(UNIT);
    place(&placed, &unit)?;
    let drop_in = text("deploy/systemd/redis-password.conf")?;
    let drop_ins = folder.path().join(format!("{UNIT}.d"));
    place(&drop_ins.join("redis-password.conf"), &drop_in)?;
    let placed = placed.display().to_string();
    // No manual pages: what they would be searched with need not be installed.
    // A key that it does not know is a warning to it, which may also speak of other units.
    let verify = "exec systemd-analyze verify --man=no \"$0\" 2>&1";
    let warnings = run_tool("sh", &["-c", verify, &placed])?;
    assert!(!warnings.contains(UNIT), "{warnings}");
    let judged = [
        "security",
        "--offline=true",
        "--no-pager",
        EXPOSURE,
        &placed,
    ];
    run_tool("systemd-analyze", &judged)?;
    Ok(())
}

#[tokio::test]
async fn its_command_line_and_its_configuration_are_accepted() -> anyhow::Result<()> {
    let unit = text(&format!("deploy/systemd/{UNIT}"))?;
    let start = "ExecStart=/usr/local/bin/ratelimiter-exporter ";
    let command = unit.lines().find_map(|line| line.strip_prefix(start));
    let configuration = path("deploy/systemd/config.yml").display().to_string();
    // systemd makes this folder.
    let folder = TempDir::new("state")?;
    let state = folder.path().join("ratelimiter-exporter");
    std::fs::create_dir(&state)?;
    let command = command
        .context("no command")?
        .replace("%S", &folder.path().display().to_string())
        .replace("/etc/ratelimiter-exporter/config.yml", &configuration);
    accepted(command.split(' ').map(str::to_owned).collect()).await
}

#[tokio::test]
async fn the_drop_in_hands_over_the_password_by_a_setting_that_exists() -> anyhow::Result<()> {
    let drop_in = text("deploy/systemd/redis-password.conf")?;
    assert!(drop_in.contains("LoadCredential=redis-password:"));
    let variable = "Environment=RATELIMITER_EXPORTER_REDIS_PASSWORD_FILE=%d/redis-password";
    assert!(drop_in.lines().any(|line| line == variable), "{drop_in}");
    let folder = TempDir::new("credential")?;
    let file = folder.path().join("redis-password");
    place(&file, "secret\n")?;
    accepted(vec![format!("--redis.password-file={}", file.display())]).await
}
