//! A configuration file of any bytes.

use std::path::PathBuf;

use super::{Config, Values, find};

/// An error is one line that says where it is; nothing takes long, whatever the YAML expands to.
pub fn config(data: &[u8]) {
    let path = own_file();
    std::fs::write(&path, data).expect("cannot write the file");
    let mut values = Values::default();
    // Flags beat the file: a name to listen on would be looked up, and files named inside would be read.
    for (flag, value) in [
        ("config.file", path.to_str().unwrap_or_default()),
        ("web.listen-address", "127.0.0.1:0"),
        ("redis.password-file", "/dev/null"),
        ("redis.sentinel-password-file", "/dev/null"),
    ] {
        let setting = find(flag).expect("no such setting");
        values.add(setting, format!("--{flag}"), vec![value.to_owned()]);
    }
    let loaded = Config::load(values, |_| None);
    std::fs::remove_file(&path).expect("cannot remove the file");
    if let Err(error) = loaded {
        let error = error.to_string();
        assert_eq!(error.lines().count(), 1, "{error:?}");
        assert!(
            error.contains(": invalid value ") && error.contains("expected ")
                || error.contains(": not known here"),
            "{error:?}"
        );
        assert!(error.len() < 64 * 1024, "{} bytes of error", error.len());
    }
}

/// A file of this process's own, in memory where there is such a folder.
fn own_file() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    folder.join(format!("ratelimiter-exporter-fuzz-{}", std::process::id()))
}
