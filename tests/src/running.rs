//! A command of the CLI that is still at work: what it has said so far, a signal to it, how it ended.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Answer, Host, eventually};

/// Names the files of each command in a host's scratch directory.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A command at work. Dropping it kills it.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Host {
    /// Starts a command of the CLI and leaves it at work.
    pub fn begin(&self, args: &[&str]) -> Running {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |what: &str| self.scratch().join(format!("{what}-{count}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let mut command = self.cli(args);
        command.stdout(File::create(&stdout).expect("a file"));
        command.stderr(File::create(&stderr).expect("a file")).stdin(Stdio::piped());
        Running { child: command.spawn().expect("the agent starts"), stdout, stderr }
    }
}

impl Running {
    /// Types something into it.
    pub fn types(&mut self, text: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// Types nothing more into it.
    pub fn types_nothing_more(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Gives what it has said as data so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).expect("a file")).into_owned()
    }

    /// Sends what Ctrl-C sends.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is at work");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(mut self, within: Duration) -> Answer {
        let status = eventually(within, "the command ends", || {
            let seen = self.child.try_wait().map_err(|error| error.to_string())?;
            seen.ok_or_else(|| fs::read_to_string(&self.stderr).unwrap_or_default())
        });
        let stderr = String::from_utf8_lossy(&fs::read(&self.stderr).expect("a file")).into_owned();
        Answer { code: status.code().unwrap_or(-1), stdout: self.stdout(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
