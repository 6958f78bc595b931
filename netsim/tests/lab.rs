//! Labs for real: what the kernel does with the commands of `rules`, and that nothing is left of it.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use netsim::{Lab, lab_or_skip};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(10);

/// A UDP socket in a host, whose reads end after a third of a second.
fn socket(lab: &Lab, host: &str, port: u16) -> Result<UdpSocket, Box<dyn std::error::Error>> {
    let socket = lab.inside(host, move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(socket)
}

/// Answers each datagram with the address that it came from, while `work` runs.
fn with_echo<T>(echo: &UdpSocket, work: impl FnOnce() -> T) -> io::Result<T> {
    let echo = echo.try_clone()?;
    echo.set_read_timeout(Some(Duration::from_millis(50)))?;
    let done = AtomicBool::new(false);
    Ok(thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((_, from)) = echo.recv_from(&mut buffer) {
                    let _lost = echo.send_to(from.to_string().as_bytes(), from);
                }
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    }))
}

/// Asks an echo for the address it sees; asks again when a datagram is lost (the first may wait for ARP).
fn seen_by(from: &UdpSocket, echo: SocketAddr) -> io::Result<SocketAddrV4> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 64];
    loop {
        from.send_to(b"who am I", echo)?;
        match from.recv_from(&mut buffer) {
            Ok((length, sender)) if sender == echo => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                return text.parse().map_err(|error| io::Error::other(format!("{text}: {error}")));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => {}
        }
    }
}

/// The two mappings that two public echoes see of one socket behind a NAT of this kind.
fn mappings(nat: &str) -> Result<[SocketAddrV4; 2], Box<dyn std::error::Error>> {
    let lab = Lab::up(&format!("host vps\nhost other\nhome attic nat={nat}\nhost nas in attic\n"))?;
    let echoes = [socket(&lab, "vps", 0)?, socket(&lab, "other", 0)?];
    let nas = socket(&lab, "nas", 4000)?;
    let address = |host: &str, echo: &UdpSocket| -> Result<SocketAddr, Box<dyn std::error::Error>> {
        Ok((lab.address(host)?, echo.local_addr()?.port()).into())
    };
    let targets = [address("vps", &echoes[0])?, address("other", &echoes[1])?];
    let seen =
        with_echo(&echoes[0], || with_echo(&echoes[1], || targets.map(|target| seen_by(&nas, target))))??;
    let [first, second] = seen;
    let public = lab.hosts().iter().find(|host| host.name == "nas").map(|host| host.public);
    let both = [first?, second?];
    assert_eq!(both.map(|seen| Some(*seen.ip())), [public, public]);
    Ok(both)
}

#[test]
fn a_cone_keeps_the_port_for_all_destinations() -> Outcome {
    if !lab_or_skip("a_cone_keeps_the_port_for_all_destinations") {
        return Ok(());
    }
    let [first, second] = mappings("cone")?;
    assert_eq!((first.port(), second.port()), (4000, 4000));
    Ok(())
}

#[test]
fn a_shifted_cone_has_another_port_but_one_for_all_destinations() -> Outcome {
    if !lab_or_skip("a_shifted_cone_has_another_port_but_one_for_all_destinations") {
        return Ok(());
    }
    let [first, second] = mappings("shifted")?;
    assert_eq!(first, second);
    assert!((10000..20000).contains(&first.port()), "{first}");
    Ok(())
}

#[test]
fn a_symmetric_nat_has_a_port_for_each_destination() -> Outcome {
    if !lab_or_skip("a_symmetric_nat_has_a_port_for_each_destination") {
        return Ok(());
    }
    let [first, second] = mappings("symmetric")?;
    assert_ne!(first.port(), second.port());
    Ok(())
}

#[test]
fn strangers_reach_open_homes_only() -> Outcome {
    if !lab_or_skip("strangers_reach_open_homes_only") {
        return Ok(());
    }
    let lab =
        Lab::up("host vps\nhome door nat=open\nhome attic nat=cone\nhost nas in door\nhost box in attic\n")?;
    let vps = socket(&lab, "vps", 0)?;
    for (host, reached) in [("nas", true), ("box", false)] {
        let service = socket(&lab, host, 5000)?;
        service.set_read_timeout(Some(Duration::from_millis(300)))?;
        let public = lab.hosts().iter().find(|other| other.name == host).map(|other| other.public);
        let target = (public.expect("the host is in the file"), 5000);
        let came =
            (0..3).any(|_| vps.send_to(b"hello", target).is_ok() && service.recv_from(&mut [0; 16]).is_ok());
        assert_eq!(came, reached, "{host}");
    }
    Ok(())
}

#[test]
fn a_link_delays_both_ways_and_can_be_cut_and_mended() -> Outcome {
    if !lab_or_skip("a_link_delays_both_ways_and_can_be_cut_and_mended") {
        return Ok(());
    }
    let lab = Lab::up("seed 5\nhost vps\nhome attic delay=30ms jitter=2ms\nhost nas in attic\n")?;
    let echo = socket(&lab, "vps", 0)?;
    let nas = socket(&lab, "nas", 0)?;
    let target = (lab.address("vps")?, echo.local_addr()?.port()).into();
    let times = with_echo(&echo, || -> io::Result<Vec<Duration>> {
        seen_by(&nas, target)?;
        let round = |_| {
            let start = Instant::now();
            seen_by(&nas, target).map(|_| start.elapsed())
        };
        (0..9).map(round).collect()
    })??;
    let mut sorted = times.clone();
    sorted.sort();
    assert!(sorted[0] >= Duration::from_millis(56), "{times:?}");
    // The median, so that one pause of a busy machine is no failure.
    assert!(sorted[4] < Duration::from_millis(90), "{times:?}");

    lab.cut("attic")?;
    nas.set_read_timeout(Some(Duration::from_millis(200)))?;
    with_echo(&echo, || {
        // What is under way still arrives; after that, nothing.
        let answered = |_| nas.send_to(b"x", target).is_ok() && nas.recv_from(&mut [0; 64]).is_ok();
        assert!((0..4).map(answered).any(|answered| !answered), "a cut link carries nothing");
    })?;
    lab.mend("attic")?;
    with_echo(&echo, || seen_by(&nas, target))??;
    Ok(())
}

#[test]
fn a_lossy_link_loses_its_share() -> Outcome {
    if !lab_or_skip("a_lossy_link_loses_its_share") {
        return Ok(());
    }
    let lab = Lab::up("seed 9\nhost vps loss=25%\nhost other\n")?;
    let (vps, other) = (socket(&lab, "vps", 0)?, socket(&lab, "other", 0)?);
    let target: SocketAddr = (lab.address("vps")?, vps.local_addr()?.port()).into();
    // A first answer, so that no frame is lost to ARP afterwards.
    with_echo(&vps, || seen_by(&other, target))??;
    for _ in 0..400 {
        other.send_to(b"count me", target)?;
    }
    vps.set_read_timeout(Some(Duration::from_millis(300)))?;
    let arrived = std::iter::from_fn(|| vps.recv_from(&mut [0; 16]).ok()).count();
    assert!((240..=350).contains(&arrived), "{arrived} of 400 arrived");
    Ok(())
}

#[test]
fn a_rate_holds_with_and_without_delay() -> Outcome {
    if !lab_or_skip("a_rate_holds_with_and_without_delay") {
        return Ok(());
    }
    // The kernel's token bucket plays the first link, our wire the second.
    for link in ["rate=8mbit", "rate=8mbit delay=1ms"] {
        let lab = Lab::up(&format!("host vps\nhost nas {link}\n"))?;
        let listener = lab.inside("vps", || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let target = (lab.address("vps")?, listener.local_addr()?.port());
        let mut sender = lab.inside("nas", move || TcpStream::connect(target))??;
        let (mut receiver, _) = listener.accept()?;
        let start = Instant::now();
        let writer = thread::spawn(move || sender.write_all(&vec![7; 1_000_000]));
        let length = receiver.read_to_end(&mut Vec::new())?;
        let took = start.elapsed();
        writer.join().map_err(|_| "the writer panicked")??;
        // A megabyte takes a second, less what the bucket (160 KB at most) lets through at once.
        assert_eq!(length, 1_000_000);
        assert!((800..5000).contains(&took.as_millis()), "{link}: {took:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_when_a_lab_is_dropped() -> Outcome {
    if !lab_or_skip("nothing_is_left_when_a_lab_is_dropped") {
        return Ok(());
    }
    let lab = Lab::up("host vps delay=1ms\nhome attic\nhost nas in attic\n")?;
    let prefix = lab.prefix().to_string();
    let mut child = lab.command("nas", "sleep")?.arg("600").spawn()?;
    assert!(listed()?.contains(&prefix));
    drop(lab);
    assert!(!listed()?.contains(&prefix), "{}", listed()?);
    assert!(!child.wait()?.success(), "what ran in the lab is ended with it");
    Ok(())
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() -> Outcome {
    if !lab_or_skip("nothing_is_left_when_the_owner_is_killed") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("lab");
    std::fs::write(&file, "host vps\nhome attic nat=symmetric delay=5ms\nhost nas in attic\n")?;
    // The command says that the lab is up by naming it, then lives until its input is closed.
    let mut owner = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .args(["run", path(&file)?, "--", "sh", "-c", "echo $NETSIM_LAB; exec cat >/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut name = String::new();
    let output = owner.stdout.take().ok_or("no output")?;
    io::BufRead::read_line(&mut io::BufReader::new(output), &mut name)?;
    let name = name.trim();
    assert!(name.starts_with("lab") && listed()?.contains(name), "{name} in {}", listed()?);
    owner.kill()?;
    owner.wait()?;
    let deadline = Instant::now() + PATIENCE;
    while listed()?.contains(name) {
        assert!(Instant::now() < deadline, "{}", listed()?);
        thread::yield_now();
    }
    Ok(())
}

#[test]
fn the_command_line_keeps_a_lab_from_up_to_down() -> Outcome {
    if !lab_or_skip("the_command_line_keeps_a_lab_from_up_to_down") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("lab");
    std::fs::write(&file, "host vps\nhome attic delay=1ms\nhost nas in attic\n")?;
    let netsim = |words: &[&str]| Command::new(env!("CARGO_BIN_EXE_netsim")).args(words).output();
    let up = netsim(&["up", path(&file)?])?;
    let said = String::from_utf8(up.stdout)?;
    assert!(up.status.success(), "{said}{}", String::from_utf8_lossy(&up.stderr));
    let name = said.lines().next().and_then(|line| line.strip_prefix("lab ")).ok_or("no name")?.to_string();
    let inside = netsim(&["exec", "--lab", &name, "nas", "--", "ip", "-4", "-o", "addr", "show", "eth0"])?;
    assert!(String::from_utf8_lossy(&inside.stdout).contains("192.168.1.2/24"), "{inside:?}");
    let wrong = netsim(&["exec", "--lab", &name, "cellar", "--", "true"])?;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("it has: net, attic, vps, nas"), "{wrong:?}");
    let down = netsim(&["down", "--lab", &name])?;
    assert!(down.status.success(), "{down:?}");
    assert!(!listed()?.contains(&name));
    Ok(())
}

fn path(path: &std::path::Path) -> Result<&str, &'static str> {
    path.to_str().ok_or("the path is no text")
}

/// The namespaces of this machine.
fn listed() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&Command::new("ip").args(["netns", "list"]).output()?.stdout).into_owned())
}
