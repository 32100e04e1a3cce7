//! `scripts/deps` on machines that lack programs. Its PATH is a folder with scripts in place of the programs that it calls:
//! nothing is installed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::Context as _;
use lab::process::on_path;
use lab::temp::TempDir;

use crate::harness::said;
use crate::repository::path;

/// The programs of any machine that the script needs.
const TOOLS: [&str; 7] = ["bash", "cut", "sort", "tr", "grep", "cat", "chmod"];

/// A machine whose programs are those of one folder.
struct Machine {
    folder: TempDir,
}

impl Machine {
    /// Of root or not, with a Debian that has rustup or not.
    fn new(root: bool, has_rustup: bool) -> anyhow::Result<Self> {
        let machine = Self {
            folder: TempDir::new("machine")?,
        };
        for tool in TOOLS {
            let real = on_path(&[tool]).with_context(|| format!("{tool} is missing"))?;
            symlink(real, machine.program(tool))?;
        }
        machine.add("id", if root { "echo 0" } else { "echo 1000" })?;
        let candidate = if has_rustup { "1.27.1-3" } else { "(none)" };
        machine.add("apt-cache", &format!("echo '  Candidate: {candidate}'"))?;
        // Installing rustup brings rustup, which brings the rest.
        let bin = machine.folder.path().display();
        let make = |name: &str, script: &str| {
            format!("printf '#!/bin/sh\\n{script}\\n' >'{bin}/{name}' && chmod 755 '{bin}/{name}'")
        };
        let rust = [
            make("rustc", "echo rustc 1.99.0"),
            make("cargo", "echo cargo 1.99.0"),
        ];
        let rustup = machine.program("rustup-to-be");
        let script = format!(
            "#!/bin/sh\necho \"rustup $*\" >>'{bin}/calls'\n{}\n",
            rust.join("\n")
        );
        std::fs::write(&rustup, script)?;
        machine.add(
            "apt-get",
            &format!(
                "echo \"apt-get $*\" >>'{bin}/calls'\ncase $* in *rustup*) cat '{}' >'{bin}/rustup' && chmod 755 '{bin}/rustup';; esac",
                rustup.display()
            ),
        )?;
        Ok(machine)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let path = self.program(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o755),
        )?)
    }

    fn deps(&self, programs: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(self.program("bash"));
        command.arg(path("scripts/deps")).args(programs);
        command.env_clear().env("PATH", self.folder.path());
        Ok(command.output()?)
    }

    /// The calls of apt-get and rustup, in their order.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.program("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_machine_without_rust_prints_the_one_command_that_is_missing() -> anyhow::Result<()> {
    let by_debian = "sudo apt-get install --no-install-recommends rustup && rustup default stable";
    let by_rustup = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y";
    for (root, has_rustup, command) in [
        (false, false, by_rustup),
        (false, true, by_debian),
        (true, false, by_rustup),
    ] {
        let machine = Machine::new(root, has_rustup)?;
        let output = machine.deps(&["cargo"])?;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let missing = format!("missing: Rust >= 1.89 (cargo, rustc). Run: {command}\n");
        assert_eq!(said, missing);
        let installs = machine.calls().iter().any(|it| it.contains("install"));
        assert!(!installs, "{:?}", machine.calls());
    }
    Ok(())
}

#[test]
fn one_command_installs_all_programs_that_are_missing() -> anyhow::Result<()> {
    let machine = Machine::new(false, false)?;
    let output = machine.deps(&["redis-server", "promtool", "redis-cli", "prometheus"])?;
    assert_eq!(output.status.code(), Some(2));
    let expected = "missing: redis-server promtool redis-cli prometheus. On Debian, run: \
         sudo apt-get install --no-install-recommends prometheus redis-server redis-tools\n";
    assert_eq!(said(&output), expected);
    Ok(())
}

#[test]
fn root_gets_rust_by_rustup_where_debian_has_it() -> anyhow::Result<()> {
    let machine = Machine::new(true, true)?;
    let output = machine.deps(&["cargo"])?;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        machine.calls(),
        [
            "apt-get update",
            "apt-get install -y --no-install-recommends rustup",
            "rustup default stable"
        ]
    );
    Ok(())
}

#[test]
fn a_rust_that_is_too_old_is_left_alone_and_its_update_named() -> anyhow::Result<()> {
    let machine = Machine::new(true, true)?;
    machine.add("cargo", "echo cargo 1.63.0")?;
    machine.add("rustc", "echo rustc 1.63.0")?;
    machine.add("rustup", "exit 1")?;
    let output = machine.deps(&["cargo"])?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("Run: rustup update stable && rustup default stable"),
        "{said}"
    );
    assert_eq!(machine.calls(), ["apt-get update"]);
    Ok(())
}
