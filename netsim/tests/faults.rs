//! What goes wrong in a running lab on purpose, and is mended again.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netsim::{Lab, lab_or_skip};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const NETWORK: &str = "seed 3\nhost vps wire\nhome attic wire\nhost nas in attic\nhost tv in attic\n";
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket in each of two hosts, and the address of the second.
struct Pair {
    from: UdpSocket,
    to: UdpSocket,
    target: SocketAddr,
}

impl Pair {
    fn new(lab: &Lab, from: &str, to: &str) -> Result<Pair, Box<dyn std::error::Error>> {
        let bind = |host: &str| lab.inside(host, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let (from, socket) = (bind(from)??, bind(to)??);
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let target = (lab.address(to)?, socket.local_addr()?.port()).into();
        Ok(Pair { from, to: socket, target })
    }

    /// How many of so many datagrams of this length arrive.
    fn arrive(&self, count: usize, length: usize) -> Result<usize, Box<dyn std::error::Error>> {
        for _ in 0..count {
            self.from.send_to(&vec![7; length], self.target)?;
        }
        Ok(std::iter::from_fn(|| self.to.recv_from(&mut [0; 2048]).ok()).count())
    }

    /// Tells whether nothing arrives: what is said is refused where it begins, or lost.
    fn is_silent(&self) -> bool {
        let _refused = self.from.send_to(b"x", self.target);
        self.to.recv_from(&mut [0; 8]).is_err()
    }

    /// Sends until one arrives: the first may wait for ARP, or for a rule that has just gone.
    fn opened(&self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while self.arrive(1, 8)? == 0 {
            assert!(Instant::now() < deadline, "nothing arrives at {}", self.target);
        }
        Ok(())
    }
}

#[test]
fn a_running_link_loses_one_way_and_is_narrowed_and_mended() -> Outcome {
    if !lab_or_skip("a_running_link_loses_one_way_and_is_narrowed_and_mended") {
        return Ok(());
    }
    let lab = Lab::up("host vps wire\nhost nas wire\n")?;
    let (there, back) = (Pair::new(&lab, "nas", "vps")?, Pair::new(&lab, "vps", "nas")?);
    there.opened()?;
    back.opened()?;
    lab.play("link nas out loss=100%")?;
    assert_eq!((there.arrive(20, 8)?, back.arrive(20, 8)?), (0, 20));
    lab.play("link nas out loss=0%\nlink nas longest=1280")?;
    assert_eq!(there.arrive(5, 1280 - 28)?, 5, "28 bytes are IP's and UDP's");
    assert_eq!((there.arrive(5, 1281 - 28)?, back.arrive(5, 1281 - 28)?), (0, 0));
    lab.play("mend nas\nlink nas delay=80ms")?;
    let start = Instant::now();
    assert_eq!(there.arrive(1, 1400)?, 1);
    assert!(start.elapsed() >= Duration::from_millis(80));
    Ok(())
}

#[test]
fn sides_are_split_and_healed_while_a_third_hears_both() -> Outcome {
    if !lab_or_skip("sides_are_split_and_healed_while_a_third_hears_both") {
        return Ok(());
    }
    let lab = Lab::up("host vps\nhost other\nhome attic\nhost nas in attic\nhost tv in attic\n")?;
    let apart = Pair::new(&lab, "nas", "vps")?;
    let (third, home) = (Pair::new(&lab, "nas", "other")?, Pair::new(&lab, "nas", "tv")?);
    let all = [&apart, &third, &home];
    all.iter().try_for_each(|pair| pair.opened())?;
    lab.play("split vps | nas")?;
    assert!(apart.is_silent());
    assert_eq!((third.arrive(3, 8)?, home.arrive(3, 8)?), (3, 3));
    lab.play("heal\nsplit nas | tv")?;
    apart.opened()?;
    assert!(home.is_silent());
    Ok(())
}

#[test]
fn a_firewall_blocks_datagrams_and_lets_connections_through() -> Outcome {
    if !lab_or_skip("a_firewall_blocks_datagrams_and_lets_connections_through") {
        return Ok(());
    }
    let lab = Lab::up(NETWORK)?;
    let pair = Pair::new(&lab, "nas", "vps")?;
    pair.opened()?;
    let listener = lab.inside("vps", || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let door = (lab.address("vps")?, listener.local_addr()?.port());
    let connect = move || {
        TcpStream::connect_timeout(&door.into(), Duration::from_secs(1)).map_err(|error| error.kind())
    };
    lab.play("block attic udp")?;
    assert_eq!(pair.arrive(5, 8)?, 0, "the router drops them");
    assert!(lab.inside("nas", connect)?.is_ok());
    lab.play("block attic tcp")?;
    assert!(matches!(lab.inside("nas", connect)?, Err(ErrorKind::TimedOut | ErrorKind::ConnectionRefused)));
    pair.opened()?;
    lab.play("block attic udp 1200")?;
    assert_eq!((pair.arrive(5, 1200 - 28)?, pair.arrive(5, 1201 - 28)?), (5, 0));
    lab.play("unblock attic")?;
    assert!(lab.inside("nas", connect)?.is_ok());
    Ok(())
}

#[test]
fn what_runs_on_a_host_is_frozen_thawed_and_killed_and_its_clock_jumps() -> Outcome {
    if !lab_or_skip("what_runs_on_a_host_is_frozen_thawed_and_killed_and_its_clock_jumps") {
        return Ok(());
    }
    let lab = Lab::up(NETWORK)?;
    let date = |lab: &Lab| -> Result<i64, Box<dyn std::error::Error>> {
        let output = lab.command("nas", "date")?.arg("+%s").envs(lab.clocked("nas")?).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    lab.play("clock nas -2h")?;
    let (real, shifted) = (Command::new("date").arg("+%s").output()?, date(&lab)?);
    let behind = String::from_utf8(real.stdout)?.trim().parse::<i64>()? - shifted;
    assert!((7_190..=7_210).contains(&behind), "{behind} s");

    let mut child = lab
        .command("nas", "sh")?
        .args(["-c", "while echo on; do sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    lines.next().ok_or("it says nothing")??;
    let state = || -> std::io::Result<String> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        Ok(stat.rsplit(')').next().unwrap_or("").trim().chars().take(1).collect())
    };
    lab.play("freeze nas")?;
    let deadline = Instant::now() + PATIENCE;
    while state()? != "T" {
        assert!(Instant::now() < deadline, "it still runs");
    }
    lab.play("thaw nas")?;
    lines.next().ok_or("it says nothing any more")??;
    lab.play("kill nas")?;
    assert!(!child.wait()?.success());
    Ok(())
}

#[test]
fn another_process_troubles_a_lab_by_its_name() -> Outcome {
    if !lab_or_skip("another_process_troubles_a_lab_by_its_name") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let (file, scenario) = (directory.path().join("lab"), directory.path().join("scenario"));
    std::fs::write(&file, NETWORK)?;
    std::fs::write(
        &scenario,
        "# the home loses its way out, and gets it back\ncut attic\nwait 10ms\nmend attic\n",
    )?;
    let script = format!(
        "{0} fault link vps delay=5ms && {0} fault --file {1} && ! {0} fault cut cellar",
        env!("CARGO_BIN_EXE_netsim"),
        scenario.display()
    );
    let run = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .arg("run")
        .arg(&file)
        .args(["--", "sh", "-c", &script])
        .output()?;
    let said = String::from_utf8(run.stderr)?;
    assert!(run.status.success() && said.contains("line 1: the lab has no `cellar`"), "{said}");
    Ok(())
}
