//! Raw bytes between this terminal and a machine: its serial console, and `machine dial`.

use std::io::{self, IsTerminal};

use proto::wire::api::{Error, Kind};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cx, Done, error::Exit};
use crate::client::{Raw, quoted};

/// Ctrl-], as in telnet: guests have no use for it.
const DETACH: u8 = 0x1d;

/// Open a machine's serial console
///
/// Shows what the machine said, then what it says; keys go to the machine. Ctrl-] detaches.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent machine console shop/web-1")]
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
    let _restored = terminal
        .then(RawTerminal::enter)
        .transpose()
        .map_err(|error| Error::new(Kind::Failed, "the terminal cannot be made raw").because(error))?;
    let ended = join(raw, terminal).await;
    // The cursor may stand anywhere in a line of the guest.
    if terminal {
        cx.ui.say("\r");
    }
    ended.map(|()| Exit::WELL).map_err(|error| lost(&error))
}

/// Connects stdin and stdout with a port of a machine.
pub async fn dial(cx: &Cx, machine: &str, port: u16) -> Done {
    let raw = cx.client.raw(&format!("/v1/machine/dial?machine={}&port={port}", quoted(machine))).await?;
    join(raw, false).await.map(|()| Exit::WELL).map_err(|error| lost(&error))
}

fn lost(error: &io::Error) -> Error {
    Error::new(Kind::Failed, "the connection to the machine broke").because(error).next("agent machine list")
}

/// Carries bytes until the machine's side ends. The end of stdin is passed on, not an end.
async fn join(raw: Raw, keys: bool) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(raw);
    let out = async {
        let copied = tokio::io::copy(&mut from, &mut tokio::io::stdout()).await;
        tokio::io::stdout().flush().await?;
        copied.map(|_| ())
    };
    let input = async {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = stdin.read(&mut buffer).await?;
            let detach = buffer[..length].iter().position(|byte| keys && *byte == DETACH);
            to.write_all(&buffer[..detach.unwrap_or(length)]).await?;
            if detach.is_some() {
                return Ok(());
            }
            if length == 0 {
                to.shutdown().await?;
                return std::future::pending::<io::Result<()>>().await;
            }
        }
    };
    // Nothing is lost that matters when either ends: the user left, or the machine did.
    tokio::select! {
        done = out => done,
        done = input => done,
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
