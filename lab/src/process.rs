//! A child process that cannot outlive its parent.
//!
//! It is killed and reaped when its handle is dropped, and by the kernel when the parent dies in
//! any other way. It leaves out supervision: a child that ends stays ended.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end after SIGTERM before it is killed.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(5);

/// The end of a process's output that an error shows.
const SHOWN_LINES: usize = 20;

/// A running child; see the module.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: Option<PathBuf>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program`, with what it prints going to the file `log`, or nowhere.
    ///
    /// The child is in a process group of its own, so that Ctrl-C in a terminal reaches only the
    /// parent, which then ends its children in order. It dies by SIGKILL when the *thread* that
    /// started it ends: call this from a thread that lives as long as the child should.
    pub fn spawn<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
        log: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Self::spawn_with(program, args, log, &[])
    }

    /// The same with further variables in its environment.
    pub fn spawn_with<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
        log: Option<&Path>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str());
        let name = name.to_string_lossy().into_owned();
        // setpriv, because PR_SET_PDEATHSIG from here would take unsafe code between fork and
        // exec. It execs the program, so the process id is the program's own.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(path) = log {
            let file = File::options().create(true).append(true).open(path);
            let file = file.with_context(|| format!("cannot write to {}", path.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        } else {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} through setpriv (util-linux)"))?;
        Ok(Self {
            child,
            name,
            log: log.map(Path::to_path_buf),
            ended: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed, when that goes to a file.
    pub fn output(&self) -> String {
        let bytes = self.log.as_deref().map(std::fs::read);
        String::from_utf8_lossy(&bytes.and_then(Result::ok).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`Process::output`], for an error.
    pub fn last_output(&self) -> String {
        let output = self.output();
        let all: Vec<&str> = output.lines().collect();
        all[all.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Waits until `find` finds something in its output; an error where it ends first.
    pub async fn until_printed<T>(
        &mut self,
        patience: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let found = crate::wait_for_some(patience, || {
            // In this order, so that what it printed just before its end is not missed.
            let running = self.is_running();
            let found = find(&self.output());
            async move { (found.is_some() || !running).then_some(found) }
        });
        let found = found.await;
        let output = || {
            format!(
                "the output of {} ends with:\n{}",
                self.name,
                self.last_output()
            )
        };
        found.with_context(output)?.with_context(|| {
            let name = &self.name;
            format!("{name} has ended; {}", output())
        })
    }

    /// Whether it has not ended yet. A stopped process runs.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended, once it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Ends it by SIGKILL, as a crash would, and reaps it.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            // Child::kill sends SIGKILL only while the child is not reaped: never to a stranger.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Asks it to end by SIGTERM, then insists after five seconds; returns how it ended.
    ///
    /// A paused process is resumed for this: otherwise it would not get the signal.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        if self.is_running() {
            // It may have ended by now; then the signals fail.
            let _ = self.signal(Signal::TERM);
            let _ = self.signal(Signal::CONT);
            let ended = crate::wait_for(TERMINATE_PATIENCE, || {
                let ended = !self.is_running();
                async move { ended }
            });
            if ended.await.is_err() {
                self.kill();
            }
        }
        self.ended
            .with_context(|| format!("{} could not be reaped", self.name))
    }

    /// Pauses it (SIGSTOP): it keeps its sockets and answers nothing.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes it (SIGCONT).
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to read its configuration anew (SIGHUP).
    pub fn hang_up(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Asks it to end (SIGTERM), and does not wait for that.
    pub fn ask_to_end(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// The check comes first, because the id of a reaped child may be a stranger's by now.
    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        anyhow::ensure!(self.is_running(), "{} has already ended", self.name);
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a server that was started answers and its output holds what it prints once its port is its own: an answer
/// alone may come from another server that took the port first. False where the process ended instead.
pub(crate) async fn until_ready<Fut: Future<Output = bool>>(
    process: &mut Process,
    patience: Duration,
    is_ready: impl Fn(&str) -> bool,
    answers: impl Fn() -> Fut,
) -> anyhow::Result<bool> {
    let ready = crate::wait_for_some(patience, || {
        let running = process.is_running();
        let ready = is_ready(&process.output());
        let answers = answers();
        async move {
            if !running {
                return Some(false);
            }
            (ready && answers.await).then_some(true)
        }
    });
    let ready = ready.await;
    ready.with_context(|| {
        let output = process.last_output();
        format!(
            "{} is not ready; its output ends with:\n{output}",
            process.name
        )
    })
}

/// The first of these programs, by their order, that is on the `PATH`.
pub fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let places = |name: &&str| {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .collect::<Vec<_>>()
    };
    names.iter().flat_map(places).find(|place| place.is_file())
}

/// The library of Debian's package libfaketime for programs with several threads. Debian puts it into the folder of the
/// architecture.
pub fn faketime() -> anyhow::Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").context("cannot read /usr/lib")?;
    folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .context("libfaketimeMT.so.1 is missing: run make deps, which installs faketime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_the_first_name_that_is_there() {
        let found = on_path(&["no-such-program", "setpriv"]).unwrap();
        assert!(found.ends_with("setpriv"), "{}", found.display());
        assert_eq!(on_path(&["no-such-program"]), None);
    }

    fn sleeper() -> Process {
        Process::spawn(Path::new("sleep"), ["600"], None).unwrap()
    }

    fn exists(pid: u32) -> bool {
        Path::new("/proc").join(pid.to_string()).exists()
    }

    #[test]
    fn dropping_the_handle_ends_even_a_stopped_child() {
        let mut child = sleeper();
        let pid = child.pid();
        assert!(child.is_running());
        child.pause().unwrap();
        assert!(exists(pid));
        drop(child);
        assert!(!exists(pid));
    }

    #[tokio::test]
    async fn terminating_reaps_and_returns_the_status() {
        let mut child = sleeper();
        child.pause().unwrap();
        let status = child.terminate().await.unwrap();
        assert!(!status.success());
        assert!(!child.is_running());
        assert!(child.pause().is_err(), "no signal to a reaped child");
    }

    #[tokio::test]
    async fn the_thread_that_started_a_child_takes_it_along() {
        // mem::forget is like a parent that is killed: nothing runs its destructors.
        let pid = std::thread::spawn(|| {
            let mut child = sleeper();
            // Wait for setpriv to have set the signal: it has by the time it became `sleep`.
            let name = format!("/proc/{}/comm", child.pid());
            while std::fs::read_to_string(&name).is_ok_and(|comm| comm.trim() != "sleep") {
                assert!(child.is_running());
                std::thread::yield_now();
            }
            let pid = child.pid();
            std::mem::forget(child);
            pid
        })
        .join()
        .unwrap();
        // Killed by the kernel, it is a zombie of this process.
        crate::wait_for(Duration::from_secs(5), || async {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.contains(") Z "))
        })
        .await
        .unwrap();
    }
}
