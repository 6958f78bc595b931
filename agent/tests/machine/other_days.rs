//! Programs of different days at one machine: files that yesterday's agent wrote, and wishes of tomorrow's.

use super::*;

/// A machine's two files as the first version with numbered fields wrote them, without all that may be absent.
mod files {
    use minicbor::{Decode, Encode};
    use proto::{
        id::{Epoch, MachineName, Name, SessionId},
        session::{Accelerator, MachineSpec, Prefix},
        wire::{Kind, Message, fields},
    };
    use std::path::PathBuf;

    #[derive(Encode, Decode)]
    #[cbor(map)]
    pub struct Qemu {
        #[cbor(n(0), with = "fields::path")]
        pub program: PathBuf,
        #[cbor(n(1), with = "fields::path")]
        pub disk_tool: PathBuf,
        #[n(2)]
        pub version: String,
        #[n(3)]
        pub machine: String,
        #[n(4)]
        pub cpu: String,
        #[n(5)]
        pub accelerator: Accelerator,
    }

    #[derive(Encode, Decode)]
    #[cbor(map)]
    pub struct Launch {
        #[n(0)]
        pub session: SessionId,
        #[n(1)]
        pub session_name: Name,
        #[n(2)]
        pub zone: String,
        #[n(3)]
        pub subnet: Prefix,
        #[n(4)]
        pub spec: MachineSpec,
        #[cbor(n(6), with = "fields::path")]
        pub base: PathBuf,
        #[n(7)]
        pub qemu: Qemu,
        #[n(8)]
        pub boot: String,
    }

    impl Message for Launch {
        const KIND: Kind = Kind::Launch;
    }

    #[derive(Encode, Decode)]
    #[cbor(map)]
    pub struct Process {
        #[n(0)]
        pub pid: i32,
        #[n(1)]
        pub start: u64,
        #[n(2)]
        pub boot: String,
    }

    #[derive(Encode, Decode)]
    #[cbor(map)]
    pub struct Status {
        #[n(0)]
        pub session: SessionId,
        #[n(1)]
        pub machine: MachineName,
        #[n(2)]
        pub epoch: Epoch,
        #[n(3)]
        pub shim: Process,
        #[n(4)]
        pub qemu: Option<Process>,
    }

    impl Message for Status {
        const KIND: Kind = Kind::ShimStatus;
    }
}

/// Writes both files of a running machine as yesterday's agent and shim wrote them.
fn rewrite_as_yesterday(bench: &Bench, status: &ShimStatus) {
    let path = bench.machine().join("launch");
    let today: Launch = machine::record::load(&path).unwrap().unwrap();
    let qemu = files::Qemu {
        program: today.qemu.program,
        disk_tool: today.qemu.disk_tool,
        version: today.qemu.version,
        machine: today.qemu.machine,
        cpu: today.qemu.cpu,
        accelerator: today.qemu.accelerator,
    };
    let launch = files::Launch {
        session: today.session,
        session_name: today.session_name,
        zone: today.zone,
        subnet: today.subnet,
        spec: today.spec,
        base: today.base,
        qemu,
        boot: today.boot,
    };
    std::fs::write(path, proto::wire::encode(&launch)).unwrap();
    let process = |process: &Process| files::Process {
        pid: process.pid,
        start: process.start,
        boot: process.boot.clone(),
    };
    let status = files::Status {
        session: status.session,
        machine: status.machine.clone(),
        epoch: status.epoch,
        shim: process(&status.shim),
        qemu: status.qemu.as_ref().map(process),
    };
    std::fs::write(bench.machine().join("shim"), proto::wire::encode(&status)).unwrap();
}

#[tokio::test]
async fn a_running_machine_whose_files_are_of_yesterday_is_adopted_ended_and_started_again() {
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    let first = shim.status().borrow().clone();
    drop(shim);
    rewrite_as_yesterday(&bench, &first);
    let yesterday = std::fs::read(bench.machine().join("launch")).unwrap();

    let shim = bench.adopt().await.unwrap().unwrap();
    assert_eq!(shim.status().borrow().clone(), first);
    assert_eq!(shim.launch().spec, bench.launch.spec);
    assert_eq!(
        (shim.launch().qemu.sandbox, shim.launch().qemu.rng),
        (false, false),
        "what is absent is not there"
    );
    let kept = std::fs::read(bench.machine().join("launch")).unwrap();
    assert!(kept == yesterday, "a whole intent is not written again");

    // Its shim dies without a word, and nobody followed it: yesterday's files say who it was.
    drop(shim);
    kill_9(&first.shim);
    assert!(within(30, bench.adopt()).await.unwrap().is_none());
    assert!(processes(&first).iter().all(|process| !alive(process)));
    let last = machine::last(&bench.host, &bench.machine()).unwrap();
    assert_eq!(last.ended.unwrap().reason, "its shim was killed");
    assert_eq!((last.since, last.booted), (None, false), "what is absent has not happened");

    // Its disk is what yesterday's intent says of it.
    let again = bench.launch().await;
    within(30, again.kill()).await.unwrap();
}

/// What an agent of tomorrow wants.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
enum WishOfTomorrow {
    #[n(3)]
    Dial {
        #[n(0)]
        port: u16,
        #[n(9)]
        gently: bool,
    },
    #[n(99)]
    Sing,
}

impl proto::wire::Message for WishOfTomorrow {
    const KIND: proto::wire::Kind = proto::wire::Kind::ShimWish;
}

#[tokio::test]
async fn a_shim_says_that_it_does_not_know_a_wish_and_skips_what_it_need_not_know() {
    use machine::wire::{ShimAnswer, read, write};
    let Some(bench) = bench(None).await else { return };
    let shim = bench.launch().await;
    let control = machine::Paths::new(&bench.machine(), &bench.host.run).control();
    let asked = async |wish: &WishOfTomorrow| {
        let mut stream = tokio::net::UnixStream::connect(&control).await.unwrap();
        write(&mut stream, wish).await.unwrap();
        within(20, read::<ShimAnswer>(&mut stream)).await.unwrap()
    };
    assert_eq!(asked(&WishOfTomorrow::Sing).await, ShimAnswer::Unknown);
    // Nobody listens there, so the wish itself was understood.
    assert_ne!(asked(&WishOfTomorrow::Dial { port: 9, gently: true }).await, ShimAnswer::Unknown);
    let mut stream = tokio::net::UnixStream::connect(&control).await.unwrap();
    stream.write_all(b"\"Status\"\n").await.unwrap();
    let refused = within(20, read::<ShimAnswer>(&mut stream)).await.unwrap();
    assert!(
        matches!(&refused, ShimAnswer::Failed(because) if because.starts_with("not understood: ")),
        "{refused:?}"
    );
    assert!(shim.answers().await);
    within(30, shim.kill()).await.unwrap();
}
