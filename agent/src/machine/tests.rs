//! What QEMU and the guest are told for one launch, as text, and QMP against a peer that misbehaves.

mod golden;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use expect_test::{Expect, expect};
use proto::{
    id::{Digest, Epoch, SessionId},
    seal::Seed,
    session::{Accelerator, Guard, MachineFile, MachineSpec, Prefix},
    topology::{Content, Contents, Egress, Failover, Restart},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use super::{
    argv::argv,
    keys::Keys,
    openssh,
    qemu::QemuFacts,
    qmp::{Qmp, QmpError},
    record::{Launch, Paths},
    seed::seed,
    setup,
};

/// A launch with something of everything.
pub(super) fn sample() -> Launch {
    let spec = MachineSpec {
        machine: "web-1".parse().unwrap(),
        epoch: Epoch(1),
        run: true,
        starts: 0,
        image: Digest([1; 32]),
        image_size: 1 << 30,
        cpus: 2,
        memory_mib: 512,
        disk_mib: None,
        address: [10, 64, 7, 2].into(),
        mac: [0x52, 0x54, 0, 0xab, 2, 3],
        needs: BTreeSet::new(),
        guard: Guard::Hold,
        restart: Restart::Never,
        failover: Failover::Hold,
        services: BTreeMap::new(),
        setup: vec!["apt-get install -y nginx".into()],
        files: vec![MachineFile {
            path: "/etc/a b.toml".into(),
            mode: 0o640,
            owner: Some("www-data:www-data".into()),
            content: Content::of(b"x = 1\n"),
        }],
        env: BTreeMap::from([("DB".into(), "it's".into())]),
        ssh_keys: vec!["ssh-ed25519 AAAA me@home".into(), "ssh-ed25519 BBBB a: #b".into()],
        user: None,
        host_key_seed: [9; 32],
        egress: Egress::None,
    };
    let mut contents = Contents::default();
    contents.add(b"x = 1\n");
    Launch {
        session: SessionId([3; 16]),
        session_name: "shop".parse().unwrap(),
        zone: "mesh.internal".into(),
        subnet: Prefix { base: [10, 64, 7, 0].into(), len: 24 },
        spec,
        contents,
        base: "/data/images/raw/01,01".into(),
        qemu: QemuFacts {
            program: "/usr/bin/qemu-system-x86_64".into(),
            disk_tool: "/usr/bin/qemu-img".into(),
            version: "10.0.2".into(),
            machine: "pc-q35-10.0".into(),
            cpu: "Nehalem-v1".into(),
            accelerator: Accelerator::Tcg,
            refused: None,
            no_kvm: None,
            sandbox: true,
            pvpanic: true,
            rng: true,
        },
        boot: "b".into(),
    }
}

fn check_argv(launch: &Launch, expect: Expect) {
    let paths = Paths::new(Path::new("/nowhere/web-1"), Path::new("/run/a,gent"));
    let mut text = String::new();
    for argument in argv(launch, &launch.qemu, &paths) {
        let argument = argument.into_string().unwrap();
        text += if argument.starts_with('-') { "\n" } else { " " };
        text += &argument;
    }
    expect.assert_eq(text.trim_start());
}

#[test]
fn qemu_is_given_everything_and_takes_nothing_from_defaults() {
    check_argv(
        &sample(),
        expect![[r#"
            -nodefaults
            -no-user-config
            -S
            -name web-1.shop.03030303030303030303030303030303.1.e5904ea9d598,debug-threads=on
            -uuid 4388d732-392f-884f-8448-5f7317199e10
            -machine pc-q35-10.0,graphics=off
            -accel tcg,thread=multi
            -cpu Nehalem-v1
            -smp 2
            -m size=512M
            -rtc base=utc
            -display none
            -action panic=pause
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            -chardev socket,id=qmp,path=/run/a,,gent/e5904ea9d598.q,server=on,wait=off
            -mon chardev=qmp,mode=control
            -chardev socket,id=console,path=/run/a,,gent/e5904ea9d598.c,server=on,wait=off
            -serial chardev:console
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/data/images/raw/01,01"},"node-name":"base","read-only":true}
            -blockdev {"backing":"base","discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/nowhere/web-1/disk.qcow2"},"node-name":"disk"}
            -blockdev {"driver":"raw","file":{"driver":"file","filename":"/nowhere/web-1/seed.img"},"node-name":"seed","read-only":true}
            -device virtio-blk-pci,drive=disk,bootindex=0,werror=stop,rerror=stop
            -device virtio-blk-pci,drive=seed,werror=stop,rerror=stop
            -netdev stream,id=net,server=on,addr.type=unix,addr.path=/run/a,,gent/e5904ea9d598.n
            -device virtio-net-pci,netdev=net,mac=52:54:00:ab:02:03,host_mtu=1280,romfile=
            -device virtio-rng-pci
            -device pvpanic-pci"#]],
    );
}

#[test]
fn what_a_qemu_does_not_have_is_not_asked_of_it() {
    let mut launch = sample();
    launch.qemu = QemuFacts {
        cpu: "host".into(),
        accelerator: Accelerator::Kvm,
        sandbox: false,
        pvpanic: false,
        rng: false,
        ..launch.qemu
    };
    let told = argv(&launch, &launch.qemu, &Paths::new(Path::new("/d"), Path::new("/r")));
    let told: Vec<&str> = told.iter().map(|argument| argument.to_str().unwrap()).collect();
    for absent in ["-sandbox", "pvpanic-pci", "virtio-rng-pci", "tcg,thread=multi"] {
        assert!(!told.contains(&absent), "{absent}");
    }
    assert!(told.windows(2).any(|pair| pair == ["-accel", "kvm"]));
}

fn check_seed(launch: &Launch, expect: Expect) {
    let text: String = seed(launch, None)
        .into_iter()
        .map(|file| format!("== {}\n{}", file.name, String::from_utf8(file.bytes).unwrap()))
        .collect();
    // The key is tested with `ssh-keygen`; here it would only be long.
    let private = openssh::private_file(&launch.spec.host_key_seed, "web-1").replace('\n', "\n    ");
    let runner = data_encoding::BASE64.encode(setup::RUNNER_TEXT.as_bytes());
    let text = text.replace(private.trim_end(), "(private key)").replace(&runner, "(runner)");
    expect.assert_eq(&text);
}

#[test]
fn a_machine_with_keys_of_its_own_lets_nobody_in_by_its_sessions_key() {
    let (launch, keys) = (sample(), Keys { login: Seed([1; 32]), host: Seed([2; 32]) });
    let user_data = seed(&launch, Some(&keys)).into_iter().find(|file| file.name == "user-data").unwrap();
    let text = String::from_utf8(user_data.bytes).unwrap();
    let (given, session) = (&launch.spec.ssh_keys[0], &launch.spec.ssh_keys[1]);
    let login = openssh::public_line(&[1; 32], "shop");
    assert!(text.contains(&format!("ssh_authorized_keys:\n  - {given}\n  - {login}\n")), "{text}");
    assert!(!text.contains(session), "{text}");
    assert!(text.contains(&openssh::public_line(&[2; 32], "web-1")), "{text}");
    let shared = openssh::public_line(&launch.spec.host_key_seed, "web-1");
    assert!(!text.contains(&shared), "{text}");
}

#[test]
fn the_guest_is_told_who_it_is_and_what_to_do_first() {
    check_seed(
        &sample(),
        expect![[r#"
            == meta-data
            instance-id: 03030303030303030303030303030303-web-1
            local-hostname: web-1
            == user-data
            #cloud-config
            hostname: web-1
            fqdn: web-1.shop.mesh.internal
            prefer_fqdn_over_hostname: false
            ssh_pwauth: false
            disable_root: false
            ssh_authorized_keys:
              - ssh-ed25519 AAAA me@home
              - "ssh-ed25519 BBBB a: #b"
            ssh_deletekeys: true
            ssh_genkeytypes: [ed25519]
            ssh_keys:
              ed25519_private: |
                (private key)
              ed25519_public: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY web-1
            write_files:
              - path: "/etc/a b.toml"
                permissions: "0640"
                owner: "www-data:www-data"
                defer: true
                encoding: b64
                content: eCA9IDEK
              - path: "/etc/profile.d/mesh-env.sh"
                permissions: "0644"
                encoding: b64
                content: ZXhwb3J0IERCPSdpdCdcJydzJwo=
              - path: "/var/lib/mesh/commands.sh"
                permissions: "0700"
                encoding: b64
                content: c2V0IC1lCi4gL2V0Yy9wcm9maWxlLmQvbWVzaC1lbnYuc2gKZWNobyAxID4vdmFyL2xpYi9tZXNoL3N0ZXA7IHdjIC1jIDwvdmFyL2xpYi9tZXNoL291dHB1dCA+L3Zhci9saWIvbWVzaC9mcm9tIHx8IDoKYXB0LWdldCBpbnN0YWxsIC15IG5naW54Cg==
              - path: "/var/lib/cloud/scripts/per-boot/mesh-setup"
                permissions: "0755"
                encoding: b64
                content: (runner)
            runcmd:
              - [sh, /var/lib/cloud/scripts/per-boot/mesh-setup]
            == network-config
            version: 2
            ethernets:
              mesh:
                match: {macaddress: "52:54:00:ab:02:03"}
                dhcp4: true
                dhcp6: false
                mtu: 1280
                nameservers:
                  search: ["shop.mesh.internal"]
        "#]],
    );
}

#[test]
fn a_named_user_keeps_root_out_and_nothing_to_do_writes_no_files() {
    let mut launch = sample();
    launch.spec.user = Some("ann".parse().unwrap());
    (launch.spec.setup, launch.spec.files, launch.spec.env) = Default::default();
    check_seed(
        &launch,
        expect![[r#"
        == meta-data
        instance-id: 03030303030303030303030303030303-web-1
        local-hostname: web-1
        == user-data
        #cloud-config
        hostname: web-1
        fqdn: web-1.shop.mesh.internal
        prefer_fqdn_over_hostname: false
        ssh_pwauth: false
        disable_root: true
        user:
          name: ann
        ssh_authorized_keys:
          - ssh-ed25519 AAAA me@home
          - "ssh-ed25519 BBBB a: #b"
        ssh_deletekeys: true
        ssh_genkeytypes: [ed25519]
        ssh_keys:
          ed25519_private: |
            (private key)
          ed25519_public: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY web-1
        == network-config
        version: 2
        ethernets:
          mesh:
            match: {macaddress: "52:54:00:ab:02:03"}
            dhcp4: true
            dhcp6: false
            mtu: 1280
            nameservers:
              search: ["shop.mesh.internal"]
    "#]],
    );
}

#[test]
fn every_incarnation_has_its_own_uuid() {
    let first = sample();
    let mut second = sample();
    second.spec.epoch = Epoch(2);
    assert_ne!(first.who().uuid(), second.who().uuid());
    assert_eq!(first.who().uuid(), sample().who().uuid());
    assert_eq!(first.who().uuid().len(), 36);
}

#[test]
fn socket_paths_stay_below_what_the_kernel_allows() {
    let long = format!("/data/{}", "x".repeat(180));
    let paths = Paths::new(Path::new(&long), Path::new("/run/user/1000/agent-01234567"));
    assert!(paths.sockets().iter().all(|path| path.as_os_str().len() < 100));
}

/// Plays QEMU: greets, grants the negotiation, then answers each line by `answer`.
fn peer(mut answer: impl FnMut(&Value) -> Option<String> + Send + 'static) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let (read, mut write) = theirs.into_split();
        write.write_all(b"{\"QMP\": {}}\n").await.unwrap();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let call: Value = serde_json::from_str(&line).unwrap();
            let told = match call["execute"].as_str() {
                Some("qmp_capabilities") => Some(format!("{}\n", json!({"return": {}, "id": call["id"]}))),
                _ => answer(&call),
            };
            match told {
                Some(told) => write.write_all(told.as_bytes()).await.unwrap(),
                None => continue,
            }
        }
    });
    ours
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn qmp_answers_find_their_calls_and_events_are_heard_between_them() {
    let (read, write) = peer(|call| {
        let id = &call["id"];
        let shutdown = json!({"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {}});
        let flood = json!({"event": "RTC_CHANGE", "data": {}});
        let answer = match call["execute"].as_str() {
            Some("good") => json!({"return": call["arguments"], "id": id}),
            _ => json!({"error": {"class": "GenericError", "desc": "no such command"}, "id": id}),
        };
        Some(format!("{flood}\n{shutdown}\n{answer}\n"))
    })
    .into_split();
    let (qmp, mut events) = Qmp::over(read, write, LONG).await.unwrap();
    assert_eq!(qmp.call("good", json!({"a": 1}), LONG).await.unwrap(), json!({"a": 1}));
    let refused = qmp.call("bad", Value::Null, LONG).await.unwrap_err().to_string();
    assert_eq!(refused, "QEMU refused bad: no such command");
    assert_eq!(events.recv().await.unwrap().name, "SHUTDOWN");
}

#[tokio::test]
async fn a_qemu_that_is_silent_or_gone_or_talks_nonsense_is_an_error_in_time() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (read, write) = ours.into_split();
    assert!(matches!(Qmp::over(read, write, SHORT).await, Err(QmpError::Late(_))));

    let (read, write) = peer(|_| None).into_split();
    let (qmp, _events) = Qmp::over(read, write, LONG).await.unwrap();
    assert!(matches!(qmp.call("any", Value::Null, SHORT).await, Err(QmpError::Late(_))));

    let (read, write) = peer(|_| Some("\u{0}{nonsense\n".into())).into_split();
    let (qmp, mut events) = Qmp::over(read, write, LONG).await.unwrap();
    assert!(matches!(qmp.call("any", Value::Null, LONG).await, Err(QmpError::Closed)));
    assert!(events.recv().await.is_none());
}
