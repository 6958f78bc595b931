//! The shim's own process tests: the real program, the real QEMU, and once the real tiny guest.
//! Most machines here have an empty disk, so they need no image and show what happens to a guest that
//! hears nothing. Without QEMU every test prints SKIPPED, or fails when REQUIRE_LAB=1.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use agent::machine::{
    self, Host, Launch, LaunchError, Scope, Shim, ShimStatus, launch, launch::Patience, process::Process,
};
use futures::{SinkExt, StreamExt};
use mesh::link::PortMessage;
use proto::{
    id::{Digest, Epoch, SessionId},
    session::{Accelerator, Guard, MachineFile, MachineSpec, Prefix},
    topology::{Contents, Egress, Failover, Probe, Restart},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

mod internet;
mod other_days;
mod probe;

/// The program under test.
const AGENT: &str = env!("CARGO_BIN_EXE_agent");
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
        launch(&self.host, &self.machine(), &self.launch, true).await.unwrap()
    }

    async fn adopt(&self) -> Result<Option<Shim>, LaunchError> {
        machine::adopt(&self.host, &self.machine(), &self.launch.who()).await
    }

    async fn remove(&self) -> Result<(), LaunchError> {
        machine::remove(&self.host, &self.machine(), &self.launch.who()).await
    }
}

/// Makes a bench for a machine on `image`; `None` without QEMU.
async fn bench(image: Option<&Path>) -> Option<Bench> {
    let dir = tempfile::Builder::new().prefix("m").tempdir().unwrap();
    let qemu = match machine::qemu::probe(&dir.path().join("qemu.json"), AGENT.as_ref()).await {
        Ok(qemu) => qemu,
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_LAB").is_none(), "{error}");
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let empty = || {
        let empty = dir.path().join("empty, of course.raw");
        std::fs::File::create(&empty).unwrap().set_len(1 << 20).unwrap();
        empty
    };
    let base = image.map_or_else(empty, Path::to_owned);
    let mut contents = Contents::default();
    let content = contents.add(&PAGE.repeat(BIG));
    let spec = MachineSpec {
        machine: "web-1".parse().unwrap(),
        epoch: Epoch(1),
        run: true,
        starts: 0,
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
        files: vec![MachineFile { path: "/srv/www/file".into(), mode: 0o644, owner: None, content }],
        env: BTreeMap::from([("GREETING".into(), "it's \"here\"".into())]),
        ssh_keys: vec![machine::openssh::public_line(&[5; 32], "session")],
        user: None,
        host_key_seed: [9; 32],
        egress: Egress::Internet,
    };
    let launch = Launch {
        // All tests share this computer, and a machine is looked for in all of it.
        session: SessionId(rand::random()),
        session_name: "shop".parse().unwrap(),
        zone: "mesh.internal".into(),
        subnet: Prefix { base: [10, 64, 7, 0].into(), len: 24 },
        spec,
        contents,
        base,
        qemu,
        boot: String::new(),
    };
    let program = AGENT.into();
    let host = Host { run: dir.path().join("r"), program, patience: Patience::default() };
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
        if let Some(status) = machine::record::known::<machine::ShimStatus>(&self.machine().join("shim"))
            && alive(&status.shim)
        {
            // It may end by itself at this moment.
            let _ended = Command::new("kill").args(["-9", &status.shim.pid.to_string()]).status();
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
    assert!(bench.adopt().await.unwrap().is_none());
}

#[tokio::test]
async fn a_machine_is_found_again_by_a_new_agent_and_is_not_launched_twice() {
    let Some(bench) = bench(None).await else { return };
    let first = bench.launch().await.status().borrow().clone();
    // The first handle is gone, as with a dead agent.
    let again = bench.adopt().await.unwrap().unwrap();
    assert_eq!(again.status().borrow().clone(), first);
    let twice = launch(&bench.host, &bench.machine(), &bench.launch, true).await;
    assert!(matches!(twice, Err(LaunchError::Running(_))));
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
    let stored: machine::ShimStatus = machine::record::load(&bench.machine().join("shim")).unwrap().unwrap();
    assert_eq!(stored.ended, Some(ending));
    within(10, async {
        while alive(&before.shim) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!alive(&before.qemu.unwrap()));
    assert!(bench.adopt().await.unwrap().is_none());
    // The same disk starts again.
    let shim = bench.launch().await;
    within(30, bench.remove()).await.unwrap();
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
    let refused = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
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
    let error = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("QEMU did not start: QEMU failed with exit code 1"), "{text}");
    assert!(text.contains("no-such-cpu"), "{text}");
    bench.launch.base = "/nowhere".into();
    let error = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
    assert_eq!(error.to_string(), "its image is not at /nowhere");
}

#[tokio::test]
async fn a_disk_of_another_image_is_never_started() {
    let Some(mut bench) = bench(None).await else { return };
    within(30, bench.launch().await.kill()).await.unwrap();
    bench.launch.spec.image = Digest([2; 32]);
    let refused = launch(&bench.host, &bench.machine(), &bench.launch, true).await;
    assert!(matches!(refused, Err(LaunchError::OtherImage)));
    // Also when nothing but the disk itself tells what it was made from.
    std::fs::write(bench.machine().join("launch"), b"").unwrap();
    bench.launch.base = bench.dir.path().join("other.raw");
    std::fs::File::create(&bench.launch.base).unwrap().set_len(1 << 20).unwrap();
    let refused = launch(&bench.host, &bench.machine(), &bench.launch, true).await;
    assert!(matches!(refused, Err(LaunchError::OtherImage)));
}

fn signal(process: &Process, name: &str) {
    let done = Command::new("kill").args([name, &process.pid.to_string()]).status().unwrap();
    assert!(done.success());
}

/// Both processes of a machine that runs.
fn processes(status: &ShimStatus) -> [Process; 2] {
    [status.shim.clone(), status.qemu.clone().unwrap()]
}

#[tokio::test]
async fn a_directory_that_was_replaced_by_its_copy_does_not_hide_what_runs() {
    let Some(bench) = bench(None).await else { return };
    let first = bench.launch().await.status().borrow().clone();
    let dir = bench.machine();
    let copy = dir.with_extension("copy");
    // Whole at once: the shim may be writing into it.
    let lose = |times: u32| std::fs::rename(&dir, dir.with_extension(times.to_string())).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&dir).arg(&copy).status().unwrap().success());
    lose(1);
    std::fs::rename(&copy, &dir).unwrap();
    let twice = launch(&bench.host, &dir, &bench.launch, true).await;
    assert!(matches!(twice, Err(LaunchError::Running(_))));
    assert_eq!(bench.adopt().await.unwrap().unwrap().status().borrow().clone(), first);

    // A copy in another place, and a directory that is gone, hide it no better.
    let elsewhere = bench.dir.path().join("copy/web-1");
    std::fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&dir).arg(&elsewhere).status().unwrap().success());
    let twice = launch(&bench.host, &elsewhere, &bench.launch, true).await;
    assert!(matches!(twice, Err(LaunchError::Running(_))));
    let found = machine::adopt(&bench.host, &elsewhere, &bench.launch.who()).await;
    assert!(matches!(found, Err(LaunchError::Elsewhere { .. })));
    lose(2);
    assert!(bench.adopt().await.unwrap().is_some());
    lose(3);
    within(30, bench.remove()).await.unwrap();
    assert!(processes(&first).iter().all(|process| !alive(process)));
    assert!(bench.adopt().await.unwrap().is_none());
}

#[tokio::test]
async fn files_that_cannot_be_read_hide_nothing_that_runs_and_block_nothing_that_does_not() {
    let Some(bench) = bench(None).await else { return };
    let damage = |text: &[u8]| {
        for file in ["launch", "shim"] {
            std::fs::write(bench.machine().join(file), text).unwrap();
        }
    };
    let mut shim = bench.launch().await;
    for text in [&b""[..], b"{", b"{\"spec\": {\"machine\": {\"newer\": 1}}}", b"\0\0\0"] {
        let first = shim.status().borrow().clone();
        damage(text);
        shim = bench.adopt().await.unwrap().unwrap();
        assert_eq!(processes(&shim.status().borrow()), processes(&first));
        let written: Launch = machine::record::load(&bench.machine().join("launch")).unwrap().unwrap();
        assert_eq!(written.spec, bench.launch.spec, "the shim knows what it was launched with");

        damage(text);
        within(30, shim.kill()).await.unwrap();
        damage(text);
        assert!(bench.adopt().await.unwrap().is_none());
        shim = bench.launch().await;
    }
    let last = shim.status().borrow().clone();
    damage(b"");
    within(30, bench.remove()).await.unwrap();
    assert!(processes(&last).iter().all(|process| !alive(process)) && !bench.machine().exists());
}

#[tokio::test]
async fn a_shim_that_answers_late_is_adopted_then_and_can_be_ended_before() {
    let Some(mut bench) = bench(None).await else { return };
    bench.host.patience.find = Duration::from_millis(300);
    let first = bench.launch().await.status().borrow().clone();
    signal(&first.shim, "-STOP");
    for _ in 0..2 {
        let silent = bench.adopt().await.err().unwrap();
        assert!(silent.may_run() && silent.to_string().contains(&first.shim.pid.to_string()), "{silent}");
        let twice = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
        assert!(twice.may_run(), "{twice}");
    }
    signal(&first.shim, "-CONT");
    bench.host.patience.find = Duration::from_secs(10);
    let again = bench.adopt().await.unwrap().unwrap();
    assert_eq!(again.status().borrow().clone(), first, "nothing happened to it meanwhile");

    signal(&first.shim, "-STOP");
    let who = bench.launch.who();
    within(30, machine::end(&bench.host, &bench.machine(), &who, Scope::Any, true)).await.unwrap();
    assert!(processes(&first).iter().all(|process| !alive(process)));
    assert!(bench.adopt().await.unwrap().is_none());
}

#[tokio::test]
async fn a_shim_that_is_late_at_its_start_is_found_later() {
    let Some(mut bench) = bench(None).await else { return };
    bench.host.patience.start = Duration::ZERO;
    let late = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
    assert!(late.may_run(), "{late}");
    let shim = within(60, async {
        loop {
            match bench.adopt().await {
                Ok(Some(shim)) => break shim,
                Ok(None) => panic!("it runs"),
                Err(error) => assert!(error.may_run(), "{error}"),
            }
        }
    })
    .await;
    let mut status = shim.status();
    within(60, status.wait_for(|status| status.since.is_some())).await.unwrap();
    within(30, shim.kill()).await.unwrap();
}

#[tokio::test]
async fn sockets_that_vanish_under_a_shim_are_made_again() {
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    for remove in ["the directory", "one socket", "a socket that answers nobody"] {
        match remove {
            "the directory" => std::fs::remove_dir_all(&bench.host.run).unwrap(),
            _ => {
                let control = std::fs::read_dir(&bench.host.run).unwrap().flatten();
                let control = control.map(|entry| entry.path()).find(|path| path.extension().unwrap() == "s");
                let control = control.unwrap();
                std::fs::remove_file(&control).unwrap();
                if remove != "one socket" {
                    drop(std::os::unix::net::UnixListener::bind(&control).unwrap());
                }
            }
        }
        assert!(!shim.answers().await, "{remove}");
        within(10, async {
            while !shim.answers().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    assert!(bench.adopt().await.unwrap().is_some());
    within(30, shim.kill()).await.unwrap();
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
    let cache = bench.dir.path().join("qemu.json");
    let again = machine::qemu::probe(&cache, AGENT.as_ref()).await.unwrap();
    assert_eq!(&again, facts, "the answer is remembered");
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&cache).unwrap()).unwrap();
    kept["facts"]["version"] = "0.0".into();
    std::fs::write(&cache, kept.to_string()).unwrap();
    let again = machine::qemu::probe(&cache, AGENT.as_ref()).await.unwrap();
    assert_eq!(again.version, "0.0", "what is remembered counts");
    kept.as_object_mut().unwrap().remove("longest_ms");
    std::fs::write(&cache, kept.to_string()).unwrap();
    let again = machine::qemu::probe(&cache, AGENT.as_ref()).await.unwrap();
    let proved = |facts: &machine::qemu::QemuFacts| (facts.version.clone(), facts.accelerator);
    assert_eq!(proved(&again), proved(facts), "what was proved by another bound is proved again");
    // Software that plays /dev/kvm has no hardware behind it: it must never be trusted.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let hardware = cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    assert!(hardware || facts.accelerator == Accelerator::Tcg);
    // With a CPU model that does not abort the loop itself must give it away.
    if !hardware && Path::new("/dev/kvm").exists() {
        let verdict =
            machine::accelerator::prove_kvm(AGENT.as_ref(), &facts.program, &facts.machine, "Nehalem-v1")
                .unwrap();
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

    // Its socket has just vanished: the guest shuts down in order all the same.
    let paths = machine::Paths::new(&bench.machine(), &bench.host.run);
    std::fs::remove_file(paths.control()).unwrap();
    let ending = within(60, shim.stop(Duration::from_secs(40))).await.unwrap();
    assert_eq!((ending.reason.as_str(), ending.clean), ("stopped", true));
}

#[tokio::test]
async fn a_machine_whose_log_takes_nothing_runs_all_the_same() {
    let Some(bench) = bench(None).await else { return };
    std::fs::create_dir_all(bench.machine()).unwrap();
    std::os::unix::fs::symlink("/dev/full", bench.machine().join("shim.log")).unwrap();
    let shim = bench.launch().await;
    // What it would write down has no place either, so it has something to complain of.
    let status = bench.machine().join("shim");
    std::fs::remove_file(&status).unwrap();
    std::fs::create_dir(&status).unwrap();
    let before = shim.status().borrow().shim.clone();
    let ending = within(30, shim.stop(Duration::ZERO)).await.unwrap();
    assert!(ending.asked && ending.clean, "{ending:?}");
    within(10, async {
        while alive(&before) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    // A log that cannot even be opened.
    std::fs::remove_dir(&status).unwrap();
    std::fs::remove_file(bench.machine().join("shim.log")).unwrap();
    std::fs::create_dir(bench.machine().join("shim.log")).unwrap();
    within(30, bench.launch().await.kill()).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_was_lost_is_not_made_anew_in_silence() {
    let Some(bench) = bench(None).await else { return };
    within(30, bench.launch().await.kill()).await.unwrap();
    let disk = bench.machine().join("disk.qcow2");
    std::fs::remove_file(&disk).unwrap();
    let error = launch(&bench.host, &bench.machine(), &bench.launch, true).await.err().unwrap();
    assert!(matches!(error, LaunchError::DiskGone(..)) && error.to_string().contains("--replace"), "{error}");
    assert!(!disk.exists());
}

/// What a process holds, as the kernel counts it.
fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap().count()
}

/// Ends one connection in each way there is, from either side, while the other reads, writes or does nothing.
async fn every_way_to_end(shim: &Shim) {
    // Errors are how some of them end.
    let page = async {
        assert!(page(shim, "/file").await.len() > 200_000);
    };
    let refused = async {
        shim.dial(9).await.unwrap_err();
    };
    let at_once = async { drop(shim.dial(ECHO).await.unwrap()) };
    let unread = async {
        for port in [ENDLESS, 8080] {
            let mut stream = shim.dial(port).await.unwrap();
            stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").await.unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
        }
    };
    let in_order = async {
        let mut stream = shim.dial(ECHO).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
    };
    let half = async { shim.dial(DEAF).await.unwrap().shutdown().await.unwrap() };
    let abandoned = async { shim.dial(DEAF).await.unwrap().write_all(b"hello").await.unwrap() };
    let full = async {
        let mut stream = shim.dial(DEAF).await.unwrap();
        timeout(Duration::from_millis(300), stream.write_all(&vec![0; 1 << 20])).await.ok();
    };
    let by_the_guest = async {
        let mut stream = shim.dial(BRIEF).await.unwrap();
        let _ended = stream.write_all(&[0; 50_000]).await;
        let _ended = stream.read_to_end(&mut Vec::new()).await;
    };
    let while_asked = async {
        for port in [ECHO, DEAF, 9] {
            timeout(Duration::ZERO, shim.dial(port)).await.ok();
            timeout(Duration::from_millis(1), shim.dial(port)).await.ok();
        }
    };
    let checks = async {
        assert!(machine::probe::ready(shim, 8080, &Probe::Http("/file".into())).await);
        assert!(machine::probe::ready(shim, DEAF, &Probe::Tcp).await);
    };
    let all = async {
        tokio::join!(page, refused, at_once, unread, in_order, half, abandoned, full, by_the_guest);
        tokio::join!(while_asked, checks)
    };
    within(60, all).await;
}

/// Ports of the guest: echoes, writes for ever, reads and writes nothing, ends at once.
const ECHO: u16 = 7001;
const ENDLESS: u16 = 7002;
const DEAF: u16 = 7003;
const BRIEF: u16 = 7004;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_keeps_nothing_of_connections_that_have_ended() {
    let Some(tiny) = tiny() else { return };
    let Some(mut bench) = bench(Some(&tiny)).await else { return };
    let programs = [(ECHO, "cat"), (ENDLESS, "yes"), (DEAF, "sleep 40"), (BRIEF, "true")];
    let listen = |(port, program)| format!("nc -ll -p {port} -e {program} >/dev/null 2>&1 </dev/null &");
    bench.launch.spec.setup = programs.map(listen).to_vec();
    let shim = bench.launch().await;
    let process = shim.status().borrow().shim.clone();
    within(120, async {
        while !machine::probe::ready(&shim, 8080, &Probe::Http("/file".into())).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let control = machine::Paths::new(&bench.machine(), &bench.host.run).control();
    // What was counted of packets grows by itself: a guest looks for routers and tells what it listens to.
    let held = || async {
        // Before the question, because the connection that asks is held for a moment, too.
        let held = descriptors(&process);
        let machine::wire::Counts { dials, callers, tasks, connections, sockets, waiting, .. } =
            machine::wire::counts(&control, Duration::from_secs(10)).await.unwrap();
        (held, [dials, callers, tasks, connections, sockets, waiting])
    };
    let settles = |what: &'static str, goal: (usize, [usize; 6])| async move {
        let mut seen = held().await;
        let start = Instant::now();
        while seen != goal {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}: {seen:?}, not {goal:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            seen = held().await;
        }
    };
    // The checks so far have to end first.
    let mut quiet = held().await;
    within(30, async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let before = std::mem::replace(&mut quiet, held().await);
            if before == quiet && quiet.1[..2] == [0, 0] {
                return;
            }
        }
    })
    .await;
    let open = [shim.dial(ECHO).await.unwrap(), shim.dial(DEAF).await.unwrap()];
    let seen = held().await;
    assert_eq!((seen.0, &seen.1[..2]), (quiet.0 + 2, &[2, 2][..]), "what is held is seen");
    drop(open);
    for _ in 0..20 {
        every_way_to_end(&shim).await;
    }
    settles("after hundreds of connections", quiet).await;
    // Whoever looks at the silent console and goes away leaves nothing either.
    for _ in 0..40 {
        drop(shim.console().await.unwrap());
    }
    settles("after many looks at the console", quiet).await;
    assert_eq!(page(&shim, "/file").await.len(), PAGE.len() * BIG);
    within(60, shim.stop(Duration::from_secs(40))).await.unwrap();
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
