//! Raw bytes between this terminal and a machine: its serial console, and `machine dial`.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use proto::wire::api::{Error, Kind};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Cx, Done,
    error::Exit,
    out::{self, Pace, Stop},
};
use crate::cli::client::{Raw, quoted};

/// Ctrl-], as in telnet: guests have no use for it.
const DETACH: u8 = 0x1d;
/// Once stdin has ended, the console is left when the machine says nothing for this long: longer than
/// an emulated guest thinks about a line that it was typed.
const QUIET: Duration = Duration::from_secs(1);
/// A machine that always says something is left then.
const LINGER_AT_MOST: Duration = Duration::from_secs(10);

/// What the end of stdin means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    /// The user has left: what still comes is shown for a moment.
    Leave,
    /// The machine is told, and its side goes on.
    PassOn,
}

/// Open a machine's serial console
///
/// Shows what the machine said, then what it says; keys go to the machine. Ctrl-] detaches. Without a
/// terminal it ends when stdin has ended and the machine says nothing more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent machine console shop/web-1\n  agent machine console shop/web-1 </dev/null >said"
)]
pub struct Args {
    /// The machine
    #[arg(value_name = "[SESSION/]MACHINE")]
    machine: String,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let raw = cx.client.raw(&format!("/v1/machine/console?machine={}", quoted(&args.machine))).await?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        cx.ui.say("Ctrl-] detaches");
    }
    let restored = terminal
        .then(RawTerminal::enter)
        .transpose()
        .map_err(|error| Error::new(Kind::Failed, "the terminal cannot be made raw").because(error))?;
    let ended = join(raw, terminal, AtEnd::Leave).await;
    drop(restored);
    // The cursor may stand anywhere in a line of the guest.
    if terminal {
        cx.ui.say("");
    }
    ended.map(|()| Exit::WELL)
}

/// Connects stdin and stdout with a port of a machine.
pub async fn dial(cx: &Cx, machine: &str, port: u16) -> Done {
    let raw = cx.client.raw(&format!("/v1/machine/dial?machine={}&port={port}", quoted(machine))).await?;
    join(raw, false, AtEnd::PassOn).await.map(|()| Exit::WELL)
}

fn lost(error: &io::Error) -> Error {
    Error::new(Kind::Failed, "the connection to the machine broke").because(error).next("agent machine list")
}

/// Carries bytes both ways until the machine's side ends, the user leaves, or nobody reads on.
async fn join(raw: Raw, keys: bool, at_end: AtEnd) -> Result<(), Error> {
    let (from, mut to) = tokio::io::split(raw);
    let pace = Pace::default();
    let input = async {
        match (type_in(&mut to, keys).await?, at_end) {
            (Typed::Detach, _) => {}
            (Typed::All, AtEnd::Leave) => pace.is_quiet(QUIET, LINGER_AT_MOST).await,
            (Typed::All, AtEnd::PassOn) => {
                to.shutdown().await?;
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    };
    // Nothing is lost that matters when either ends: the user left, or the machine did.
    tokio::select! {
        stop = out::carry(from, &pace) => match stop {
            Stop::End => Ok(()),
            Stop::Source(error) => Err(lost(&error)),
            Stop::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Stop::Stdout(error) => Err(out::unwritten(&error)),
        },
        done = input => done.map_err(|error: io::Error| lost(&error)),
    }
}

/// Why nothing more is typed.
enum Typed {
    /// Stdin has ended.
    All,
    /// The user pressed the key for it.
    Detach,
}

/// Carries stdin to the machine.
async fn type_in(to: &mut (impl AsyncWrite + Unpin), keys: bool) -> io::Result<Typed> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stdin.read(&mut buffer).await?;
        let detach = buffer[..length].iter().position(|byte| keys && *byte == DETACH);
        to.write_all(&buffer[..detach.unwrap_or(length)]).await?;
        match (detach, length) {
            (Some(_), _) => return Ok(Typed::Detach),
            (None, 0) => return Ok(Typed::All),
            _ => {}
        }
    }
}

/// Gives the terminal back as it was.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> io::Result<RawTerminal> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone away.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
