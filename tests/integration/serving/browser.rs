//! A headless Chromium of the test's own, driven by its debugging protocol over two pipes: nothing listens anywhere.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lab::process::Process;
use lab::temp::TempDir;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;

use crate::harness::PATIENCE;

/// No sandbox, since tests may run as root; none of the conversations with its maker that it begins by itself.
const FLAGS: [&str; 15] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-breakpad",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// A browser with one tab.
#[derive(Debug)]
pub(crate) struct Browser {
    to: pipe::Sender,
    from: BufReader<pipe::Receiver>,
    session: Option<String>,
    calls: u64,
    process: Process,
    _folder: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new("browser")?;
        let [input, output] = ["in", "out"].map(|name| folder.path().join(name));
        let made = Command::new("mkfifo").arg(&input).arg(&output).status()?;
        anyhow::ensure!(made.success(), "mkfifo: {made}");
        // Both ways, or opening would wait for the other side.
        let to = pipe::OpenOptions::new()
            .read_write(true)
            .open_sender(&input)?;
        let from = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&output)?;
        // It leaves a folder behind where temporary files go, when it is killed: that is our folder, then.
        let own = folder.path().join("tmp");
        std::fs::create_dir(&own)?;
        let script = "to=$1 from=$2 TMPDIR=$3; export TMPDIR; shift 3; exec chromium \"$@\" 3<\"$to\" 4>\"$from\"";
        let profile = format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        );
        let mut args = ["-c", script, "sh"].map(std::ffi::OsString::from).to_vec();
        args.extend([
            input.into_os_string(),
            output.into_os_string(),
            own.into_os_string(),
            profile.into(),
        ]);
        args.extend(FLAGS.map(std::ffi::OsString::from));
        let log = folder.path().join("log");
        let process = Process::spawn(Path::new("sh"), args, Some(&log))?;
        let mut browser = Self {
            to,
            from: BufReader::new(from),
            session: None,
            calls: 0,
            process,
            _folder: folder,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.size(1280, 900).await?;
        Ok(browser)
    }

    /// Calls a method of the protocol and waits for its result.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let id = self.calls;
        let answer = async {
            self.to.write_all(&bytes).await?;
            loop {
                let mut message = Vec::new();
                self.from.read_until(0, &mut message).await?;
                message.pop();
                let message: Value = serde_json::from_slice(&message)?;
                if message["id"] == id {
                    return anyhow::Ok(message);
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer =
            answer.with_context(|| format!("{method}: no answer; {}", self.process.output()))??;
        anyhow::ensure!(answer.get("error").is_none(), "{method}: {answer}");
        Ok(answer["result"].clone())
    }

    /// The value of a JavaScript expression on the page; a promise is waited for.
    pub(crate) async fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params).await?;
        anyhow::ensure!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until a JavaScript expression is true. It may fail meanwhile: a page that loads has no elements yet.
    pub(crate) async fn until(&mut self, expression: &str) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.value(expression).await;
            if matches!(value, Ok(Value::Bool(true))) {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "never: {expression}; at last: {value:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens a page and waits until it has loaded.
    pub(crate) async fn open(&mut self, url: &str) -> anyhow::Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url})).await?;
        anyhow::ensure!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.until("document.readyState === 'complete'").await
    }

    /// The size of the window.
    pub(crate) async fn size(&mut self, width: u32, height: u32) -> anyhow::Result<()> {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", params)
            .await
            .map(drop)
    }

    /// Light or dark, as the reader's system would ask for.
    pub(crate) async fn prefers(&mut self, scheme: &str) -> anyhow::Result<()> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}))
            .await
            .map(drop)
    }

    /// A picture of the page, as wide as the window and as high as the page.
    pub(crate) async fn screenshot(&mut self, file: &Path) -> anyhow::Result<()> {
        let params =
            json!({"format": "png", "captureBeyondViewport": true, "optimizeForSpeed": false});
        let picture = self.call("Page.captureScreenshot", params).await?;
        let data = picture["data"].as_str().context("no picture")?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, BASE64_STANDARD.decode(data)?)?;
        Ok(())
    }
}
