//! `agent machine`: single machines.

use proto::wire::api::{MachineRow, Machines};

use super::{Cx, Done, console, error::Exit, session, ssh};
use crate::cli::client::quoted;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List the machines of all sessions
    #[command(after_help = "Example:\n  agent machine list")]
    List,
    Ssh(ssh::Args),
    Console(console::Args),
    /// Start a machine that was stopped
    #[command(after_help = "Example:\n  agent machine start shop/web-2")]
    Start {
        /// The machine
        #[arg(value_name = "[SESSION/]MACHINE")]
        machine: String,
    },
    /// Stop a machine; its disk stays, and it stays stopped until it is started
    #[command(after_help = "Example:\n  agent machine stop shop/web-2")]
    Stop {
        /// The machine
        #[arg(value_name = "[SESSION/]MACHINE")]
        machine: String,
    },
    /// Connect stdin and stdout with a TCP port of a machine (ssh's ProxyCommand)
    #[command(hide = true)]
    Dial {
        /// The machine
        #[arg(value_name = "[SESSION/]MACHINE")]
        machine: String,
        /// The port in the machine
        port: u16,
    },
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::List => {
            let list: Machines = cx.client.get("/v1/machines").await?;
            cx.ui.show(&list, |list, width| session::machines(&list.machines, true, width));
            Ok(Exit::WELL)
        }
        Verb::Ssh(args) => ssh::run(cx, args).await,
        Verb::Console(args) => console::run(cx, args).await,
        Verb::Start { machine } => wish(cx, "start", &machine).await,
        Verb::Stop { machine } => wish(cx, "stop", &machine).await,
        Verb::Dial { machine, port } => console::dial(cx, &machine, port).await,
    }
}

async fn wish(cx: &Cx, verb: &str, machine: &str) -> Done {
    let path = format!("/v1/machine/{verb}?machine={}", quoted(machine));
    let row: MachineRow = cx.client.post(&path, &()).await?;
    cx.ui.show(&row, |row, width| session::machines(std::slice::from_ref(row), true, width));
    Ok(Exit::WELL)
}
