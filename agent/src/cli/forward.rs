//! `agent service forward`: a port of this computer that leads to a service for as long as the command runs. Each
//! connection is one through the agent, which chooses the machine; an agent that begins again is waited for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use mesh::net::splice;
use proto::wire::api::{Error, Kind, ServiceForwarded, ServiceFound};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Cx, Done, client::Client, error::Exit, ui};
use crate::{
    cli::client::quoted,
    host::{holder::holder, listen},
};

/// Connections at once; those beyond wait in the kernel. Other commands need places at the agent as well.
const MOST: usize = 64;
/// How long a connection waits for an agent that is not there: one that begins again is faster.
const AGENT_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks for it, and after a connection could not be taken.
const AGAIN: Duration = Duration::from_millis(200);
/// What one connection holds in each direction.
const COPY_BYTES: usize = 32 * 1024;
/// Ports below are the system's.
const FIRST_OF_USERS: u16 = 1024;

/// Listen on this computer for a service, for as long as this command runs
///
/// Connections go to the ready machines, whichever hosts they run on; Ctrl-C ends it. Machines that
/// stop and come back, and an agent that begins again, are waited for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent service forward 8080:web.shop\n  agent service forward 127.0.0.1:5433:postgres.db.shop"
)]
pub struct Args {
    /// Where to listen, on 127.0.0.1 unless an address is given, and for what, as `service open` takes it
    #[arg(value_name = "[ADDRESS:]PORT:SERVICE")]
    forward: Forward,
}

/// Where to listen, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    local: SocketAddr,
    service: String,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Forward, String> {
        let wrong = || "write PORT:SERVICE or ADDRESS:PORT:SERVICE, such as 8080:web.shop".to_owned();
        let (local, service) =
            text.rsplit_once(':').filter(|(_, service)| !service.is_empty()).ok_or_else(wrong)?;
        let loopback =
            |port: &str| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?));
        let local = match local.strip_prefix("localhost:") {
            Some(port) => loopback(port),
            None => loopback(local).or_else(|| local.parse().ok()),
        };
        Ok(Forward { local: local.ok_or_else(wrong)?, service: service.to_owned() })
    }
}

pub async fn run(cx: &Cx, args: Args) -> Done {
    let Forward { local, service } = args.forward;
    let path = |verb: &str| format!("/v1/service/{verb}?service={}", quoted(&service));
    let found: ServiceFound = cx.client.get(&path("found")).await?;
    let listener = listen::tcp(local).map_err(|error| not_listening(local, &service, &error))?;
    let here = listener.local_addr().map_err(|error| not_listening(local, &service, &error))?;
    let scheme = if found.http { "http" } else { "tcp" };
    let shown = ServiceForwarded {
        url: format!("{scheme}://{here}"),
        address: here.ip().to_string(),
        port: here.port(),
        service: found.name,
    };
    cx.ui.show(&shown, |shown, _| shown.url.clone());
    cx.ui.say(&format!("it leads to {}; Ctrl-C ends it", shown.service));
    let carry = Carry { client: cx.client.clone(), path: path("connect").into() };
    let (mut carried, mut told) = (JoinSet::new(), None);
    let slots = Arc::new(Semaphore::new(MOST));
    loop {
        let next = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        // All arms are cancel-safe: a slot that no connection took is given back.
        let (accepted, slot) = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::INTERRUPTED),
            Some(ended) = carried.join_next() => {
                tell(cx, &mut told, ended.ok());
                continue;
            }
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let carry = carry.clone();
                carried.spawn(async move {
                    let ended = carry.run(stream).await;
                    drop(slot);
                    ended
                });
            }
            // Without a descriptor left, or a client that has gone already.
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Tells why a connection was not carried, once as long as it is the same reason.
fn tell(cx: &Cx, told: &mut Option<String>, ended: Option<Result<(), Error>>) {
    match ended {
        Some(Ok(())) => *told = None,
        Some(Err(error)) => {
            let words = ui::in_words(&error);
            if told.as_ref() != Some(&words) {
                cx.ui.say(&words);
                *told = Some(words);
            }
        }
        None => {}
    }
}

/// Carries connections of this computer through the agent.
#[derive(Clone)]
struct Carry {
    client: Client,
    path: Arc<str>,
}

impl Carry {
    /// Carries one. Its client sees a reset when nobody takes it; that it ended or broke later is no news.
    async fn run(&self, mut stream: TcpStream) -> Result<(), Error> {
        stream.set_nodelay(true).ok();
        let (mut agent, said) = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => {
                stream.set_zero_linger().ok();
                return Err(error);
            }
        };
        let carried = async {
            stream.write_all(&said).await?;
            splice(&mut stream, &mut agent, COPY_BYTES).await
        };
        if carried.await.is_err() {
            stream.set_zero_linger().ok();
        }
        Ok(())
    }

    async fn connect(&self) -> Result<(tokio::net::UnixStream, bytes::Bytes), Error> {
        let until = Instant::now() + AGENT_WITHIN;
        loop {
            match self.client.socket(&self.path).await {
                Err(error) if error.kind == Kind::Unreachable && Instant::now() < until => sleep(AGAIN).await,
                connected => return connected,
            }
        }
    }
}

fn not_listening(local: SocketAddr, service: &str, error: &io::Error) -> Error {
    let port = local.port();
    let told = Error::new(Kind::Failed, format!("port {port} of {} is not listened on", local.ip()));
    let instead = |port: &str| format!("agent service forward {port}:{service}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = holder(port).map_or("another program has it".to_owned(), |who| format!("{who} has it"));
            told.because(who).next(format!("choose another port: {}", instead("0")))
        }
        io::ErrorKind::PermissionDenied if port < FIRST_OF_USERS => told
            .because(format!("ports below {FIRST_OF_USERS} are the system's"))
            .next(instead(&(8000 + port).to_string())),
        io::ErrorKind::AddrNotAvailable => {
            told.because("this computer has no such address").next(instead(&port.to_string()))
        }
        _ => told.because(error).next(instead("0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_a_place_here_and_a_service() {
        let read = |text: &str| text.parse::<Forward>().map(|it| (it.local.to_string(), it.service));
        let ok = |local: &str, service: &str| Ok((local.to_owned(), service.to_owned()));
        assert_eq!(read("8080:web.shop"), ok("127.0.0.1:8080", "web.shop"));
        assert_eq!(read("0:http.web.shop"), ok("127.0.0.1:0", "http.web.shop"));
        assert_eq!(read("localhost:8080:shop/web-1"), ok("127.0.0.1:8080", "shop/web-1"));
        assert_eq!(read("192.168.1.2:80:web.shop"), ok("192.168.1.2:80", "web.shop"));
        assert_eq!(read("[::1]:80:files.nas.host"), ok("[::1]:80", "files.nas.host"));
        for wrong in ["web.shop", "8080:", ":web.shop", "x:web.shop", "70000:web.shop", "nas:80:web.shop", ""]
        {
            assert!(read(wrong).unwrap_err().contains("8080:web.shop"), "{wrong}");
        }
    }

    #[test]
    fn a_port_that_is_not_to_be_had_is_told_with_its_reason_and_the_way_out() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = taken.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = runtime.enter();
        let error = not_listening(local, "web.shop", &listen::tcp(local).unwrap_err());
        assert!(error.because.unwrap().ends_with(&format!("(process {}) has it", std::process::id())));
        assert_eq!(error.next.unwrap(), "choose another port: agent service forward 0:web.shop");
        let denied = io::ErrorKind::PermissionDenied.into();
        let error = not_listening("127.0.0.1:80".parse().unwrap(), "web.shop", &denied);
        assert_eq!(error.because.unwrap(), "ports below 1024 are the system's");
        assert_eq!(error.next.unwrap(), "agent service forward 8080:web.shop");
        let elsewhere = "192.0.2.1:8080".parse().unwrap();
        let error = not_listening(elsewhere, "web.shop", &listen::tcp(elsewhere).unwrap_err());
        assert_eq!(error.because.unwrap(), "this computer has no such address");
    }
}
