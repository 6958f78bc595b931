//! The shim's own process tests: the real program, the real QEMU, and once the real tiny guest.
//! Most machines here have an empty disk, so they need no image and show what happens to a guest that
//! hears nothing. Without QEMU every test prints SKIPPED, or fails when REQUIRE_LAB=1.
#![allow(clippy::unwrap_used)]

// The program's own module: a binary has no library that a test could link.
#[allow(dead_code, unused_imports)]
#[path = "../src/machine/mod.rs"]
mod machine;
// What the module stands on.
#[allow(dead_code)]
#[path = "../src/limits.rs"]
mod limits;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use machine::{Host, Launch, Shim, adopt, launch, launch::LaunchError, process::Process, remove};
use mesh::link::PortMessage;
use proto::{
    id::{Digest, Epoch, SessionId},
    session::{Accelerator, Guard, MachineSpec, Prefix},
    topology::{Failover, Probe, Restart},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// A line of a file that is larger than what one connection has under way.
const PAGE: &[u8] = b"from the topology, so many times that it does not fit into a window\n";
const BIG: usize = 3800;

/// What one test has: its own directories and the QEMU of this host.
struct Bench {
    dir: TempDir,
    host: Host,
    launch: Launch,
}

impl Bench {
    fn machine(&self) -> PathBuf {
        self.dir.path().join("shop/web-1")
    }

    async fn launch(&self) -> Shim {
        launch(&self.host, &self.machine(), &self.launch).await.unwrap()
    }
}

/// Makes a bench for a machine on `image`; `None` without QEMU.
async fn bench(image: Option<&Path>) -> Option<Bench> {
    let dir = tempfile::Builder::new().prefix("m").tempdir().unwrap();
    let qemu = match machine::qemu::probe(&dir.path().join("qemu.json")).await {
        Ok(qemu) => qemu,
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_LAB").is_none(), "{error}");
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let base = image.map_or_else(
        || {
            let empty = dir.path().join("empty, of course.raw");
            std::fs::File::create(&empty).unwrap().set_len(1 << 20).unwrap();
            empty
        },
        Path::to_owned,
    );
    let spec = MachineSpec {
        machine: "web-1".parse().unwrap(),
        epoch: Epoch(1),
        run: true,
        image: Digest([1; 32]),
        image_size: std::fs::metadata(&base).unwrap().len(),
        cpus: 1,
        memory_mib: 192,
        disk_mib: Some(64),
        address: [10, 64, 7, 2].into(),
        mac: [0x52, 0x54, 0, 1, 2, 3],
        needs: BTreeSet::new(),
        guard: Guard::Hold,
        restart: Restart::Never,
        failover: Failover::Hold,
        services: BTreeMap::new(),
        setup: vec!["echo \"$GREETING\" > /srv/www/greeting".into()],
        files: vec![("/srv/www/file".into(), 0o644, None, PAGE.repeat(BIG))],
        env: BTreeMap::from([("GREETING".into(), "it's \"here\"".into())]),
        ssh_keys: vec![machine::openssh::public_line(&[5; 32], "session")],
        user: None,
        host_key_seed: [9; 32],
    };
    let launch = Launch {
        session: SessionId([3; 16]),
        session_name: "shop".parse().unwrap(),
        zone: "mesh.internal".into(),
        subnet: Prefix { base: [10, 64, 7, 0].into(), len: 24 },
        spec,
        base,
        qemu,
        boot: String::new(),
    };
    let host = Host { run: dir.path().join("r"), program: env!("CARGO_BIN_EXE_agent").into() };
    Some(Bench { dir, host, launch })
}

impl Drop for Bench {
    /// A failed test shows what its guest printed, and leaves no process.
    fn drop(&mut self) {
        let shown = |name: &str| std::fs::read(self.machine().join(name)).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- {}", String::from_utf8_lossy(&shown("shim.log")));
            eprintln!("--- {}", String::from_utf8_lossy(&shown("console.log")));
        }
        if let Ok(status) = serde_json::from_slice::<machine::ShimStatus>(&shown("shim.json"))
            && alive(&status.shim)
        {
            kill_9(&status.shim);
        }
    }
}

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), what).await.unwrap_or_else(|_| panic!("not within {seconds} s"))
}

fn alive(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    // A zombie runs no guest.
    !stat.is_empty() && !stat.contains(") Z ")
}

fn kill_9(process: &Process) {
    assert!(Command::new("kill").args(["-9", &process.pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn qemu_dies_within_a_second_of_its_shim_and_the_handle_says_so() {
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    let status = shim.status().borrow().clone();
    let qemu = status.qemu.unwrap();
    assert!(status.since.is_some() && alive(&qemu));
    kill_9(&status.shim);
    let killed = Instant::now();
    while alive(&qemu) {
        assert!(killed.elapsed() < Duration::from_secs(1), "QEMU outlives its shim");
        tokio::task::yield_now().await;
    }
    let mut status = shim.status();
    let ended = within(10, status.wait_for(|status| status.ended.is_some())).await.unwrap().clone();
    assert_eq!(ended.ended.unwrap().reason, "its shim was killed");
    assert!(adopt(&bench.host, &bench.machine()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_machine_is_found_again_by_a_new_agent_and_is_not_launched_twice() {
    let Some(bench) = bench(None).await else { return };
    let first = bench.launch().await.status().borrow().clone();
    // The first handle is gone, as with a dead agent.
    let again = adopt(&bench.host, &bench.machine()).await.unwrap().unwrap();
    assert_eq!(again.status().borrow().clone(), first);
    let twice = launch(&bench.host, &bench.machine(), &bench.launch).await;
    assert!(matches!(twice, Err(LaunchError::Running)));
    let ending = within(30, again.kill()).await.unwrap();
    assert!(!ending.clean);
}

#[tokio::test]
async fn a_guest_that_does_not_shut_down_is_quit_and_its_ending_is_on_disk() {
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    let before = shim.status().borrow().clone();
    let ending = within(30, shim.stop(Duration::from_secs(1))).await.unwrap();
    assert_eq!(
        (ending.reason.as_str(), ending.clean, ending.asked),
        ("stopped; the guest did not shut down in time", true, true)
    );
    let stored: machine::ShimStatus =
        machine::record::load(&bench.machine().join("shim.json")).unwrap().unwrap();
    assert_eq!(stored.ended, Some(ending));
    within(10, async {
        while alive(&before.shim) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!alive(&before.qemu.unwrap()));
    assert!(adopt(&bench.host, &bench.machine()).await.unwrap().is_none());
    // The same disk starts again.
    let shim = bench.launch().await;
    within(30, remove(&bench.host, &bench.machine())).await.unwrap();
    assert!(shim.status().borrow().ended.is_some() || !alive(&shim.status().borrow().shim));
    assert!(!bench.machine().exists());
    assert_eq!(std::fs::read_dir(&bench.host.run).unwrap().count(), 0, "sockets are left");
}

#[tokio::test]
async fn sockets_are_never_put_where_somebody_else_decides() {
    let Some(bench) = bench(None).await else { return };
    let elsewhere = bench.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &bench.host.run).unwrap();
    let refused = launch(&bench.host, &bench.machine(), &bench.launch).await.err().unwrap();
    assert_eq!(refused.to_string(), "cannot make the directory for sockets");
}

#[tokio::test]
async fn a_qemu_that_hears_nothing_is_killed_in_the_end() {
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    let qemu = shim.status().borrow().qemu.clone().unwrap();
    assert!(Command::new("kill").args(["-STOP", &qemu.pid.to_string()]).status().unwrap().success());
    let ending = within(30, shim.stop(Duration::ZERO)).await.unwrap();
    assert_eq!(ending.reason, "killed; neither the guest nor QEMU ended in time");
    assert!(!ending.clean && !alive(&qemu));
}

#[tokio::test]
async fn what_qemu_refuses_is_told_in_its_own_words_and_leaves_no_process() {
    let Some(mut bench) = bench(None).await else { return };
    bench.launch.qemu.cpu = "no-such-cpu".into();
    let error = launch(&bench.host, &bench.machine(), &bench.launch).await.err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("QEMU did not start: QEMU failed with exit code 1"), "{text}");
    assert!(text.contains("no-such-cpu"), "{text}");
    bench.launch.base = "/nowhere".into();
    let error = launch(&bench.host, &bench.machine(), &bench.launch).await.err().unwrap();
    assert_eq!(error.to_string(), "its image is not at /nowhere");
}

#[tokio::test]
async fn a_disk_of_another_image_is_never_started() {
    let Some(mut bench) = bench(None).await else { return };
    within(30, bench.launch().await.kill()).await.unwrap();
    bench.launch.spec.image = Digest([2; 32]);
    let refused = launch(&bench.host, &bench.machine(), &bench.launch).await;
    assert!(matches!(refused, Err(LaunchError::OtherImage)));
}

#[tokio::test]
async fn sockets_and_files_are_open_to_their_owner_only_and_the_firmware_is_heard() {
    use std::os::unix::fs::PermissionsExt;
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    for dir in [bench.host.run.clone(), bench.machine()] {
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o077, 0, "{}", dir.display());
        for file in std::fs::read_dir(dir).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        }
    }
    let mut console = shim.console().await.unwrap();
    let mut seen = String::new();
    within(20, async {
        while !seen.contains("SeaBIOS") {
            let mut piece = [0; 256];
            let count = console.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "the console ended after {seen:?}");
            seen += &String::from_utf8_lossy(&piece[..count]);
        }
    })
    .await;
    within(30, shim.kill()).await.unwrap();
}

#[tokio::test]
async fn an_accelerator_that_opens_but_emulates_is_refused() {
    let Some(bench) = bench(None).await else { return };
    let facts = &bench.launch.qemu;
    match (&facts.refused, facts.accelerator) {
        (None, Accelerator::Kvm) => {}
        (Some(because), Accelerator::Tcg) => eprintln!("KVM is not used here: {because}"),
        other => panic!("{other:?}"),
    }
    let again = machine::qemu::probe(&bench.dir.path().join("qemu.json")).await.unwrap();
    assert_eq!(&again, facts, "the answer is remembered");
    // Software that plays /dev/kvm has no hardware behind it: it must never be trusted.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let hardware = cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    assert!(hardware || facts.accelerator == Accelerator::Tcg);
    // With a CPU model that does not abort the loop itself must give it away.
    if !hardware && Path::new("/dev/kvm").exists() {
        let verdict = machine::accelerator::prove_kvm(&facts.program, &facts.machine, "Nehalem-v1").unwrap();
        assert_ne!(verdict, machine::accelerator::Verdict::Fast);
    }
}

/// Finds or builds the tiny guest.
fn tiny() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TINY") {
        return Some(path.into());
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/guests/tiny/build");
    let built = Command::new("sh").arg(build).output().unwrap();
    let path = String::from_utf8(built.stdout).unwrap();
    if built.status.success() {
        return Some(path.trim().into());
    }
    assert!(std::env::var_os("REQUIRE_LAB").is_none(), "{}", String::from_utf8_lossy(&built.stderr));
    eprintln!("SKIPPED: the tiny guest cannot be built here");
    None
}

async fn page(shim: &Shim, path: &str) -> String {
    let mut stream = shim.dial(8080).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    within(20, stream.read_to_string(&mut text)).await.unwrap();
    text.split("\r\n\r\n").nth(1).unwrap_or(&text).to_owned()
}

#[tokio::test]
async fn a_real_guest_boots_is_told_who_it_is_answers_and_shuts_down_when_asked() {
    let Some(tiny) = tiny() else { return };
    let Some(bench) = bench(Some(&tiny)).await else { return };
    let shim = bench.launch().await;
    let mut status = shim.status();
    within(120, status.wait_for(|status| status.booted)).await.unwrap();
    within(60, async {
        while !machine::probe::ready(&shim, 8080, &Probe::Http("/".into())).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(!machine::probe::ready(&shim, 8080, &Probe::Http("/nowhere".into())).await);
    assert!(machine::probe::ready(&shim, 22, &Probe::Tcp).await);
    assert_eq!(shim.dial(9).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let (one, two) = tokio::join!(page(&shim, "/file"), page(&shim, "/file"));
    assert!(one.as_bytes() == PAGE.repeat(BIG) && two == one, "{} and {} bytes", one.len(), two.len());
    assert_eq!(page(&shim, "/greeting").await, "it's \"here\"\n");

    // A packet from a neighbour comes back through the packet port, also when the agent is another one.
    for _agent in 0..2 {
        let mut port = shim.network().await.unwrap();
        let answer = within(30, ping(&mut port)).await;
        assert_eq!(answer[20], 0, "an echo reply");
    }
    // Typed on the console: a reboot is the guest's own affair, QEMU and shim run on.
    let before = status.borrow_and_update().clone();
    let mut console = shim.console().await.unwrap();
    console.write_all(b"\nreboot -f\n").await.unwrap();
    within(30, status.wait_for(|status| !status.booted)).await.unwrap();
    within(120, status.wait_for(|status| status.booted)).await.unwrap();
    assert_eq!(status.borrow().clone(), before);

    let ending = within(60, shim.stop(Duration::from_secs(40))).await.unwrap();
    assert_eq!((ending.reason.as_str(), ending.clean), ("stopped", true));
}

/// Sends an echo request from 10.64.7.9 until the guest answers it.
async fn ping(port: &mut machine::handle::PacketPort) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4([10, 64, 7, 9], [10, 64, 7, 2], 64);
    let mut request = Vec::new();
    builder.icmpv4_echo_request(7, 1).write(&mut request, b"hello").unwrap();
    loop {
        port.send(PortMessage::Packet(request.clone().into())).await.unwrap();
        let heard = timeout(Duration::from_secs(2), port.next()).await;
        if let Ok(Some(Ok(PortMessage::Packet(packet)))) = heard
            && packet[9] == 1
        {
            return packet.to_vec();
        }
    }
}
