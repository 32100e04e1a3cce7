//! The configuration file as its users meet it: one invalid file for each mistake, and the example that has everything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ratelimiter_exporter::config::{Config, SETTINGS, Values, find};

use crate::harness::{run, said};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file begins with a comment: the expected error, with FILE for its path.
#[tokio::test]
async fn each_mistake_is_one_line_with_its_place_and_what_was_expected() -> anyhow::Result<()> {
    let folder = repository().join("tests/integration/serving/config");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    assert!(files.len() >= 30, "{files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let path = file.display().to_string();
        let expected = expected.unwrap_or("nothing").replace("FILE", &path);
        let flags = vec![format!("--config.file={path}"), "--config.check".to_owned()];
        let output = run(flags).await?;
        let said = said(&output);
        let line = said.strip_prefix("ratelimiter-exporter: ").unwrap_or(&said);
        let as_expected = line.starts_with(&expected) && line.lines().count() == 1;
        if !as_expected || output.status.code() != Some(2) {
            wrong.push(format!("{path}\n  expected {expected}\n  said     {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let mut values = Values::default();
    if let (Some(file), Some(setting)) = (file, find("config.file")) {
        let path = vec![file.display().to_string()];
        values.add(setting, "--config.file".to_owned(), path);
    }
    Ok(Config::load(values)?)
}

#[test]
fn the_example_has_every_setting_with_its_default() -> anyhow::Result<()> {
    let example = repository().join("docs/example.yml");
    let text = std::fs::read_to_string(&example)?;
    for setting in SETTINGS {
        if setting.flag.starts_with("config.") {
            continue;
        }
        let line = match setting.default {
            Some(default) => format!("\n{}: {default}\n", setting.flag),
            None => format!("\n#{}: ", setting.flag),
        };
        assert!(text.contains(&line), "{line:?} is not in the example");
    }
    // Not only what has a flag: the sections, too, say what holds without them.
    assert_eq!(
        format!("{:?}", load(Some(&example))?),
        format!("{:?}", load(None)?)
    );
    Ok(())
}

#[test]
fn a_hundred_targets_are_taken() -> anyhow::Result<()> {
    let folder = lab::temp::TempDir::new("hundred")?;
    let file = folder.path().join("config.yml");
    let mut text = "redis.url: redis://r:1\nratelimiter.url: http://n:1\ntargets:\n".to_owned();
    for number in 1..=100 {
        let own = "{redis.url: redis://r:1, ratelimiter.url: http://n:1}";
        writeln!(text, "  t{number}: {own}")?;
    }
    std::fs::write(&file, text)?;
    // And the one outside of them.
    assert_eq!(load(Some(&file))?.targets.len(), 101);
    Ok(())
}

#[test]
fn what_the_example_leaves_out_is_valid_where_it_needs_no_other_file() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(repository().join("docs/example.yml"))?;
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // One space behind the sign is a comment for people. Other files and TLS are not there.
            Some(rest) if rest.starts_with(' ') && !rest.starts_with("  ") => line,
            Some(rest) if rest.contains("-file:") || rest.contains(".tls-") => line,
            Some(rest) if rest.starts_with("web.config.file") => line,
            Some(rest) if rest.starts_with("limiter.file") => line,
            // A user at nodes or Prometheus is nobody without the file with the password.
            Some(rest) if rest.starts_with("ratelimiter.username") => line,
            Some(rest) if rest.starts_with("prometheus.username") => line,
            Some(rest) => rest,
            None => line,
        })
        .collect();
    let folder = lab::temp::TempDir::new("example")?;
    let file = folder.path().join("example.yml");
    std::fs::write(&file, uncommented.join("\n"))?;
    let config = load(Some(&file))?;
    assert_eq!(config.observe.limit_rules.len(), 2);
    assert!(config.targets.len() > 1, "{:?}", config.targets.keys());
    Ok(())
}

#[tokio::test]
async fn a_variable_that_is_no_settings_is_refused_at_the_start() -> anyhow::Result<()> {
    for (name, status, expected) in [
        (
            "RATELIMITER_EXPORTER_REDIS_TIEMOUT",
            2,
            "did you mean RATELIMITER_EXPORTER_REDIS_TIMEOUT?",
        ),
        ("RATELIMITER_EXPORTER_SERVICE_HOST", 0, ""),
    ] {
        for task in [
            &["--config.check"][..],
            &["evaluate", "/dev/null", "--config.check"],
        ] {
            let output = tokio::process::Command::new(lab::exporter_binary())
                .env(name, "10.0.0.1")
                .args(task)
                .output()
                .await?;
            let said = said(&output);
            assert_eq!(output.status.code(), Some(status), "{said}");
            assert!(said.contains(expected), "{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn flags_beat_variables_beat_the_file() -> anyhow::Result<()> {
    const VARIABLE: &str = "RATELIMITER_EXPORTER_REDIS_TIMEOUT";
    let folder = lab::temp::TempDir::new("precedence")?;
    let file = folder.path().join("config.yml");
    std::fs::write(&file, "redis.timeout: of-the-file\n")?;
    let file = format!("--config.file={}", file.display());
    let flag = "--redis.timeout=of-the-flag";
    // A value that is wrong says where it is from.
    for (variable, words, expected) in [
        (
            "of-the-variable",
            &[flag][..],
            "--redis.timeout: invalid value \"of-the-flag\"",
        ),
        (
            "of-the-variable",
            &[flag, "check"],
            "--redis.timeout: invalid value \"of-the-flag\"",
        ),
        (
            "of-the-variable",
            &["check", flag],
            "--redis.timeout: invalid value \"of-the-flag\"",
        ),
        (
            "of-the-variable",
            &[],
            "RATELIMITER_EXPORTER_REDIS_TIMEOUT: invalid value \"of-the-variable\"",
        ),
        (
            "of-the-variable",
            &["check"],
            "RATELIMITER_EXPORTER_REDIS_TIMEOUT: invalid value \"of-the-variable\"",
        ),
        ("", &[], "redis.timeout in /"),
    ] {
        let output = tokio::process::Command::new(lab::exporter_binary())
            .env(VARIABLE, variable)
            .args(["--config.check", &file])
            .args(words)
            .output()
            .await?;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{variable:?} {words:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn help_does_not_show_what_variables_hold() -> anyhow::Result<()> {
    let plain = run(vec!["--help".to_owned()]).await?;
    let output = tokio::process::Command::new(lab::exporter_binary())
        .env("RATELIMITER_EXPORTER_REDIS_URL", "redis://me:hunter2@h:1")
        .arg("--help")
        .output()
        .await?;
    assert_eq!(output.stdout, plain.stdout);
    Ok(())
}
