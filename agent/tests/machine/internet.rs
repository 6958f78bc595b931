//! A guest's way out, on a host that is nobody's: the test runs again in a network of its own, and an internet stands
//! two hops away.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

/// What one download brings: more than all buffers on its way, so that a pause is in its middle.
const DOWNLOAD_BYTES: u64 = 100 << 20;
/// Where the internet serves.
const SITE: &str = "203.0.113.80:80";

/// A network of its own for this process's host, and behind a router a network that is the internet.
pub struct Internet(Child);

impl Drop for Internet {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-euc", script]).status().unwrap().success(), "{script}");
}

/// Serves the files of `dir` by HTTP on 203.0.113.80, two hops away.
pub fn internet(dir: &Path) -> Internet {
    let inside = "read go; ip link set lo up; ip addr add 203.0.113.80/32 dev lo
        ip addr add 192.0.2.2/30 dev wan; ip link set wan up; exec cat";
    let child = Command::new("unshare").args(["-n", "sh", "-euc", inside]).stdin(Stdio::piped()).spawn();
    let mut internet = Internet(child.unwrap());
    let of = |pid: u32| format!("/proc/{pid}/ns/net");
    let namespace = |pid: u32| std::fs::read_link(of(pid)).unwrap();
    while namespace(internet.0.id()) == namespace(std::process::id()) {
        std::thread::yield_now();
    }
    sh(&format!(
        "ip link set lo up; ip link add home type veth peer name wan netns {}
         ip addr add 192.0.2.1/30 dev home; ip link set home up; ip route add default via 192.0.2.2",
        internet.0.id()
    ));
    internet.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let (place, dir) = (std::fs::File::open(of(internet.0.id())).unwrap(), dir.to_owned());
    std::thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&place), Some(LinkNameSpaceType::Network))
            .unwrap();
        // Until the address is there.
        let listener = loop {
            match TcpListener::bind(SITE) {
                Ok(listener) => break listener,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            // Who goes away in the middle is not missed.
            std::thread::spawn(move || serve(&stream, &dir).ok());
        }
    });
    let begun = Instant::now();
    while TcpStream::connect(SITE).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the internet serves nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    internet
}

/// Answers one request of HTTP/1.0 with a file.
fn serve(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let asked = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let name = asked.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    match std::fs::read(dir.join(name)) {
        Ok(content) => {
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len())?;
            stream.write_all(&content)
        }
        Err(_) => stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n"),
    }
}

/// Gives the bytes that came from the internet so far.
fn arrived() -> u64 {
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all.lines().find_map(|line| line.trim().strip_prefix("home:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs the test `name` again with a network, and files that it may mount over, of its own: that is the host of
/// the guest then. Returns false in the outer one, which is done.
pub fn alone(name: &str) -> bool {
    const INSIDE: &str = "MACHINE_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["-nm", "true"]).status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("REQUIRE_LAB").is_none(), "no namespaces here");
        eprintln!("SKIPPED: no namespaces here");
        return false;
    }
    let again = Command::new("unshare")
        .arg("-nm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(again.unwrap().success());
    false
}

#[test]
fn a_guest_fetches_from_the_internet_over_a_pause_and_another_agent_and_reaches_nothing_of_its_host() {
    let name = "internet::a_guest_fetches_from_the_internet_over_a_pause_and_another_agent_and_reaches_nothing_of_its_host";
    if alone(name) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(fetch_from_the_internet());
    }
}

async fn fetch_from_the_internet() {
    let Some(tiny) = tiny() else { return };
    let Some(mut bench) = bench(Some(&tiny)).await else { return };
    let site = tempfile::tempdir().unwrap();
    let mut content = vec![0; DOWNLOAD_BYTES as usize];
    content.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 997) as u8);
    std::fs::write(site.path().join("big"), &content).unwrap();
    let sum = Command::new("md5sum").arg(site.path().join("big")).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap()[..32].to_owned();
    let _internet = internet(site.path());
    let own = tokio::net::TcpListener::bind("192.0.2.1:80").await.unwrap();
    bench.launch.spec.setup = vec![
        "wget -q -O - http://203.0.113.80/big | md5sum > /srv/www/sum.new; mv /srv/www/sum.new /srv/www/sum"
            .into(),
        "begin=$(cut -d. -f1 /proc/uptime); wget -q -O - http://203.0.113.80:81/ 2>/srv/www/closed || true; \
         echo $(($(cut -d. -f1 /proc/uptime) - begin)) > /srv/www/took"
            .into(),
        "for to in 192.0.2.1 169.254.169.254 192.0.2.2 10.0.0.1; do \
         wget -q -O - http://$to/ && echo reached $to; done > /srv/www/reached 2>&1; true"
            .into(),
    ];
    let shim = bench.launch().await;
    let begun = Instant::now();
    within(180, async {
        while arrived() < DOWNLOAD_BYTES / 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let qemu = shim.status().borrow().qemu.clone().unwrap();
    // The agent goes and another one comes, and the guest stands still for a minute.
    drop(shim);
    signal(&qemu, "-STOP");
    assert!(arrived() < DOWNLOAD_BYTES, "it is in the middle");
    tokio::time::sleep(Duration::from_secs(60)).await;
    signal(&qemu, "-CONT");
    let shim = bench.adopt().await.unwrap().unwrap();
    within(240, async {
        // Its pages are served once its setup is done.
        while shim.dial(8080).await.is_err() || !page(&shim, "/reached").await.contains("10.0.0.1") {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    eprintln!("downloaded within {:?} with a pause of 60 s", begun.elapsed());
    assert_eq!(page(&shim, "/sum").await.split_whitespace().next(), Some(&sum[..]));
    let closed = page(&shim, "/closed").await;
    assert!(closed.contains("refused"), "{closed}");
    let took: u64 = page(&shim, "/took").await.trim().parse().unwrap();
    assert!(took <= 1, "a closed port was refused after {took} s");
    let reached = page(&shim, "/reached").await;
    assert!(!reached.contains("reached "), "{reached}");
    assert!(timeout(Duration::ZERO, own.accept()).await.is_err(), "nobody came to the host itself");
}
