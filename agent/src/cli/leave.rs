//! `agent leave`: takes this host out of its mesh.

use std::time::Duration;

use proto::wire::api::{Error, HostLoss, Kind, Left};

use super::{Cx, Done, error::Exit, host, reach};
use crate::daemon;

/// Guests have half a minute to shut down, and the agent some seconds.
const ASIDE_WITHIN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Take this computer out of its mesh
///
/// Tells the others, stops this host's machines, ends its agent, and puts what it had of the mesh aside
/// in the data directory, disks included. Afterwards it can make or join another mesh. On a host that was
/// evicted or removed it only puts aside what is left.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent leave\n  agent leave --yes")]
pub struct Args {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let left: Left = if cx.client.is_running().await {
        let loss: HostLoss = cx.client.get("/v1/host/loss").await?;
        host::confirm(cx, &loss, args.yes, ("leave", "agent leave"))?;
        let left = cx.client.post("/v1/leave", &()).await?;
        put_aside(cx).await?;
        left
    } else {
        reach::own_only(&cx.data, cx.chosen, "leave")?;
        daemon::leave(&cx.data).await?
    };
    cx.ui.show(&left, |left, _| in_words(left));
    Ok(Exit::WELL)
}

/// Waits until the agent has put everything aside, so that the next command finds the directory free.
async fn put_aside(cx: &Cx) -> Result<(), Error> {
    let gone = async {
        while cx.client.is_running().await || mesh::identity::exists(cx.data.path()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(ASIDE_WITHIN, gone).await.map_err(|_| {
        Error::new(Kind::TimedOut, "this host left, and its agent has not ended yet")
            .because("its machines are still shutting down")
            .next("agent status")
    })
}

fn in_words(left: &Left) -> String {
    let (host, mesh) = (&left.host.name, &left.mesh.name);
    match &left.unheard[..] {
        [] => format!("{host} left the mesh {mesh}"),
        names => format!("{host} left the mesh {mesh}; {} may not have heard of it", names.join(", ")),
    }
}
