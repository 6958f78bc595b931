//! Whether /dev/kvm is the real thing. There are hosts where it opens, makes machines and runs code,
//! yet emulates at 2 to 4 million instructions a second. So QEMU itself, with the CPU that guests would get,
//! runs a ROM of ours: a byte out, a million turns of a loop, a byte out. The time between the bytes
//! decides; the child is killed when it says nothing. A CPU model that aborts is found out as well.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use proto::reasons::NoKvm;
use rustix::fs::{MemfdFlags, memfd_create};

use super::guard;

/// Turns of the ROM's loop. Hardware needs 1 to 5 ms.
const TURNS: u32 = 1_000_000;
/// The longest that hardware may take for them: 20 million turns a second. Emulation was seen to do 4 million, the slowest
/// CPU with hardware virtualisation does five times what is asked for.
pub const LONGEST: Duration = Duration::from_millis(50);
/// How long QEMU may take for everything, its own start on a loaded host included.
const DEADLINE: Duration = Duration::from_secs(4);
/// A loaded host may stall the child once; it does not do so three times in a row.
const TRIES: usize = 3;

/// What the ROM's run showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Fast enough to be hardware.
    Fast,
    /// It must not be used, and why.
    Refused(NoKvm),
}

/// Judges `/dev/kvm` by running the ROM with it: the agent's program starts QEMU, which dies with us.
pub fn prove_kvm(agent: &Path, qemu: &Path, machine: &str, cpu: &str) -> io::Result<Verdict> {
    let device = Path::new("/dev/kvm");
    if !device.exists() {
        return Ok(Verdict::Refused(NoKvm::Absent));
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        let seen = error.to_string();
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        return Ok(Verdict::Refused(if denied { NoKvm::Denied { seen } } else { NoKvm::NotOpened { seen } }));
    }
    let mut verdict = Verdict::Refused(NoKvm::Hangs);
    for _ in 0..TRIES {
        verdict = judge(run(guarded(agent, qemu), machine, cpu, "kvm")?);
        if verdict == Verdict::Fast {
            break;
        }
    }
    Ok(verdict)
}

fn guarded(agent: &Path, qemu: &Path) -> Command {
    let mut command = Command::new(agent);
    command.args(guard::wrapped(qemu, [""; 0]));
    command
}

/// What was seen of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    /// Both bytes came; the time between them.
    Took(Duration),
    /// QEMU ended before; its words.
    Ended(String),
    /// Nothing more came.
    Silent,
}

fn judge(run: Run) -> Verdict {
    match run {
        Run::Took(time) if time <= LONGEST => Verdict::Fast,
        Run::Took(time) => {
            let turns_10k_s = (f64::from(TURNS) / time.as_secs_f64().max(1e-6) / 1e4).round() as u64;
            Verdict::Refused(NoKvm::Emulates { turns_10k_s })
        }
        Run::Ended(seen) => Verdict::Refused(NoKvm::Ended { seen }),
        Run::Silent => Verdict::Refused(NoKvm::Hangs),
    }
}

fn run(mut qemu: Command, machine: &str, cpu: &str, accelerator: &str) -> io::Result<Run> {
    // In memory: a file would stay when the agent is killed meanwhile.
    let mut rom = File::from(memfd_create("probe.rom", MemfdFlags::CLOEXEC)?);
    rom.write_all(&rom_image())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), rom.as_raw_fd());
    let mut child = qemu
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "16"])
        .args(["-machine", machine, "-accel", accelerator, "-cpu", cpu, "-bios", &path])
        .args(["-chardev", "stdio,id=out,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=out"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let outcome = watch(&mut child);
    // Killing what has ended is an error that means nothing.
    child.kill().ok();
    child.wait()?;
    outcome
}

/// Waits for the ROM's two bytes. A thread reads, so that a hanging child cannot hang us.
fn watch(child: &mut Child) -> io::Result<Run> {
    let (Some(mut out), Some(mut words)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (seen, sees) = mpsc::channel();
    thread::spawn(move || {
        let mut byte = [0];
        while out.read_exact(&mut byte).is_ok() && seen.send((byte[0], Instant::now())).is_ok() {}
    });
    let deadline = Instant::now() + DEADLINE;
    let mut began = None;
    loop {
        match sees.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((b'A', at)) => began = Some(at),
            Ok((b'B', at)) => return Ok(began.map_or(Run::Silent, |began| Run::Took(at - began))),
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Run::Silent),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let mut text = String::new();
                words.by_ref().take(4096).read_to_string(&mut text)?;
                let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended");
                return Ok(Run::Ended(line.trim().to_owned()));
            }
        }
    }
}

/// A BIOS of 64 KiB: `out 0xe9,'A'; mov ecx,TURNS; loop; out 0xe9,'B'; out 0xf4,0; hlt`.
fn rom_image() -> Vec<u8> {
    let mut code = vec![0xb0, b'A', 0xe6, 0xe9, 0x66, 0xb9];
    code.extend(TURNS.to_le_bytes());
    code.extend([0x67, 0xe2, 0xfd, 0xb0, b'B', 0xe6, 0xe9, 0xb0, 0x00, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    let mut rom = vec![0; 0x1_0000];
    rom[..code.len()].copy_from_slice(&code);
    // The reset vector: a jump to the first byte, which wraps around.
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_silent_and_broken_acceleration_is_refused_with_the_reason() {
        assert_eq!(judge(Run::Took(Duration::from_millis(3))), Verdict::Fast);
        assert!(matches!(judge(Run::Took(Duration::from_millis(245))), Verdict::Refused(_)));
        let Verdict::Refused(because) = judge(Run::Took(Duration::from_millis(571))) else { panic!() };
        assert_eq!(
            because.to_string(),
            "/dev/kvm opens but emulates: 1.8 million loop turns a second, hardware does hundreds"
        );
        assert!(matches!(judge(Run::Silent), Verdict::Refused(_)));
        assert!(matches!(judge(Run::Ended("no".into())), Verdict::Refused(_)));
    }

    #[test]
    fn the_rom_runs_in_a_real_qemu_and_its_bytes_are_timed() {
        let Ok(qemu) = super::super::qemu::find("qemu-system-x86_64", "qemu-system-x86") else {
            eprintln!("SKIPPED: no qemu-system-x86_64");
            return;
        };
        let seen = run(Command::new(&qemu), "q35", "qemu64", "tcg").unwrap();
        assert!(matches!(seen, Run::Took(_)), "{seen:?}");
        let seen = run(Command::new(&qemu), "q35", "no-such-cpu", "tcg").unwrap();
        assert!(matches!(&seen, Run::Ended(why) if why.contains("no-such-cpu")), "{seen:?}");
    }
}
