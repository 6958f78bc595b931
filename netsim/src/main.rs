//! `netsim`: labs from the command line. `run` keeps a lab for one command; `up` keeps it until `down`.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use netsim::{
    Lab,
    card::{self, Guest},
    control, relay,
};

#[derive(Parser)]
#[command(about = "Labs of network namespaces: homes behind NATs, links with delay, loss and rate", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the lab of FILE and leave it running; prints its name and its hosts
    Up {
        /// The lab file
        file: PathBuf,
    },
    /// Remove a lab
    Down {
        /// Its name; not needed while there is only one
        #[arg(long)]
        lab: Option<String>,
    },
    /// Run a command in a host of a lab
    Exec {
        /// The lab's name; not needed while there is only one, nor where NETSIM_LAB names it, as inside `netsim run`
        #[arg(long)]
        lab: Option<String>,
        /// The host, home, or `net` for the public net
        host: String,
        /// The command and its arguments, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Make something go wrong in a running lab: `netsim fault link attic out loss=30%`, or `--file` with a scenario
    ///
    /// Faults: `cut NAME`, `mend NAME`, `link NAME [in|out] delay=.. jitter=.. loss=.. rate=.. longest=BYTES`,
    /// `block NAME udp|tcp [BYTES]`, `unblock NAME`, `split A.. '|' B..`, `heal`, `freeze HOST`, `thaw HOST`, `kill HOST`,
    /// `clock HOST +3h`. A scenario has one a line, `wait 3s` between them, and comments after `#`.
    Fault {
        /// The lab's name; not needed while there is only one, nor where NETSIM_LAB names it, as inside `netsim run`
        #[arg(long)]
        lab: Option<String>,
        /// A scenario, which is played to its end
        #[arg(long, conflicts_with = "words", required_unless_present = "words")]
        file: Option<PathBuf>,
        /// One fault
        words: Vec<String>,
    },
    /// Build the lab of FILE, run a command beside it with NETSIM_LAB set, and remove the lab
    Run {
        /// The lab file
        file: PathBuf,
        /// The command and its arguments, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Be a guest behind a network card's socket, as QEMU's `-netdev stream` is: does the orders on its input
    ///
    /// The first order says who it is: `is MAC ADDRESS GATEWAY`. Then `get ADDRESS:PORT BYTES` and `put ADDRESS:PORT
    /// BYTES` print MB/s, `hold ADDRESS:PORT COUNT` prints how many connections stand, `refused ADDRESS:PORT` prints
    /// after how many milliseconds. `serve PORT [COUNT]` serves others as `source` does, so many at once.
    Card {
        /// The backend's socket
        socket: PathBuf,
        /// Wait there for the backend, as QEMU does for our shim
        #[arg(long)]
        listen: bool,
    },
    /// Serve bytes to `netsim card`, and a page to whoever asks by HTTP, until killed
    Source {
        /// The port
        port: u16,
    },
    /// Be a relay of strangers until killed; prints what stands behind its URL in `relay.fallback`
    Relay {
        /// Its port by TCP; the next one by UDP is for address discovery
        port: u16,
    },
    /// Own a lab until killed: what `up` starts
    #[command(hide = true)]
    Hold {
        /// The lab file
        file: PathBuf,
    },
}

/// How long a lab may take to come up or to go.
const WITHIN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Up { file } => up(&file),
        Verb::Down { lab } => down(lab.as_deref()),
        Verb::Exec { lab, host, command } => exec(lab.as_deref(), &host, &command),
        Verb::Fault { lab, file, words } => fault(lab.as_deref(), file.as_deref(), &words),
        Verb::Run { file, command } => run(&file, &command),
        Verb::Hold { file } => hold(&file),
        Verb::Card { socket, listen } => card(&socket, listen),
        Verb::Source { port } => source(port),
        Verb::Relay { port } => foreign_relay(port),
    };
    done.unwrap_or_else(|error| {
        eprintln!("netsim: {error:#}");
        ExitCode::FAILURE
    })
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn up(file: &Path) -> Result<ExitCode> {
    let mut holder = Command::new(std::env::current_exe()?)
        .arg("hold")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Not ours: the owner outlives us, and whoever reads our stderr would wait for it.
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start the lab's owner")?;
    let lines = BufReader::new(holder.stdout.take().context("the owner has no output")?).lines();
    for line in lines {
        let line = line?;
        if line == "up" {
            return Ok(ExitCode::SUCCESS);
        }
        println!("{line}");
    }
    let failed = holder.wait_with_output()?;
    std::io::stderr().write_all(&failed.stderr)?;
    Ok(ExitCode::FAILURE)
}

fn hold(file: &Path) -> Result<ExitCode> {
    let lab = Arc::new(Lab::up(&read(file)?)?);
    control::serve(&lab).context("cannot listen for faults")?;
    let mut out = std::io::stdout();
    writeln!(out, "lab {}", lab.prefix())?;
    for host in lab.hosts() {
        writeln!(out, "host {} {} public {}", host.name, host.address, host.public)?;
    }
    writeln!(out, "up")?;
    loop {
        thread::park();
    }
}

fn card(path: &Path, listen: bool) -> Result<ExitCode> {
    let stream = if listen {
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?.accept()?.0
    } else {
        UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?
    };
    let (orders, ordered) = mpsc::channel();
    thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        for line in lines {
            if orders.send(line).is_err() {
                return;
            }
        }
    });
    let who = ordered.recv().context("no order came")?;
    let mut guest = Guest::new(stream, place(&who)?)?;
    loop {
        match ordered.try_recv() {
            Ok(order) => println!("{}", obey(&mut guest, &order)?),
            Err(mpsc::TryRecvError::Empty) => guest.idle(Duration::from_millis(50))?,
            Err(mpsc::TryRecvError::Disconnected) => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn place(order: &str) -> Result<card::Place> {
    let words: Vec<&str> = order.split_whitespace().collect();
    let ["is", mac, address, gateway] = words[..] else { bail!("{order:?} does not say who this is") };
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let mac = bytes.try_into().map_err(|_| anyhow!("{mac} is no hardware address"))?;
    Ok(card::Place { mac, address: address.parse()?, gateway: gateway.parse()? })
}

fn obey(guest: &mut Guest, order: &str) -> Result<String> {
    let words: Vec<&str> = order.split_whitespace().collect();
    Ok(match words[..] {
        ["get", from, bytes] => format!("{:.1}", guest.get(from.parse()?, bytes.parse()?)? / 1e6),
        ["put", to, bytes] => format!("{:.1}", guest.put(to.parse()?, bytes.parse()?)? / 1e6),
        ["serve", port] => guest.serve(port.parse()?, card::SERVED).map(|()| port.to_owned())?,
        ["serve", port, at_once] => guest.serve(port.parse()?, at_once.parse()?).map(|()| port.to_owned())?,
        ["hold", to, count] => guest.hold(to.parse()?, count.parse()?)?.to_string(),
        ["refused", to] => format!("{:.1}", guest.refused(to.parse()?)?.as_secs_f64() * 1e3),
        _ => bail!("{order:?} is no order"),
    })
}

fn source(port: u16) -> Result<ExitCode> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot listen")?;
    card::source::run(&listener)?;
    Ok(ExitCode::SUCCESS)
}

fn foreign_relay(port: u16) -> Result<ExitCode> {
    let relay = relay::start(port)?;
    println!("{}", relay.pinned);
    loop {
        thread::park();
    }
}

fn down(lab: Option<&str>) -> Result<ExitCode> {
    let lab = control::find(lab)?;
    lab.end()?;
    let deadline = Instant::now() + WITHIN;
    while lab.is_there() {
        if Instant::now() > deadline {
            bail!("{} is still there after {} s", lab.name(), WITHIN.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(lab: Option<&str>, host: &str, words: &[String]) -> Result<ExitCode> {
    let named = std::env::var("NETSIM_LAB").ok();
    let lab = control::find(lab.or(named.as_deref()))?;
    let [program, arguments @ ..] = words else { bail!("no command given") };
    let error = lab.command(host, program)?.args(arguments).exec();
    bail!("cannot start `ip netns exec`: {error}")
}

fn fault(lab: Option<&str>, file: Option<&Path>, words: &[String]) -> Result<ExitCode> {
    let named = std::env::var("NETSIM_LAB").ok();
    let scenario = match file {
        Some(file) => read(file)?,
        None => words.join(" "),
    };
    control::find(lab.or(named.as_deref()))?.play(&scenario)?;
    Ok(ExitCode::SUCCESS)
}

fn run(file: &Path, words: &[String]) -> Result<ExitCode> {
    let lab = Arc::new(Lab::up(&read(file)?)?);
    control::serve(&lab).context("cannot listen for faults")?;
    let [program, arguments @ ..] = words else { bail!("no command given") };
    let status = Command::new(program)
        .args(arguments)
        .env("NETSIM_LAB", lab.prefix())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
