//! What each host is told to mend.

use std::net::SocketAddr;

use expect_test::{Expect, expect};

use proto::{reasons::NoKvm, session::Accelerator};

use super::*;

fn check(seen: Findings, expect: Expect) {
    told(&examine(&seen), expect);
}

fn told(checks: &[Check], expect: Expect) {
    let tell = |check: &Check| {
        let mend = check.mend.as_ref().map(|mend| format!("  -> {mend}")).unwrap_or_default();
        format!("{:?} {}: {}{mend}\n", check.state, check.name, check.what)
    };
    expect.assert_eq(&checks.iter().map(tell).collect::<String>());
}

fn bare() -> Findings {
    Findings {
        arch: "x86_64".into(),
        data: "/data".into(),
        machines: true,
        port: 7440,
        ..Findings::default()
    }
}

#[test]
fn a_bare_host_is_told_every_command() {
    let taken = vec!["UDP 7440".to_owned()];
    check(
        Findings { free_mib: Some(100), taken, ..bare() },
        expect![[r#"
        Missing qemu: qemu-system-x86_64 is not installed: no machine runs here  -> sudo apt-get install -y qemu-system-x86
        Limited accelerator: there is no /dev/kvm: machines run 10 to 30 times slower; virtualisation may be off in the firmware  -> sudo modprobe kvm_intel    on AMD kvm_amd; if it refuses, look at VT-x or SVM in the firmware
        Limited qemu-img: qemu-img is not installed: qcow2 files cannot be imported  -> sudo apt-get install -y qemu-utils
        Limited ssh: ssh is not installed: `machine ssh` does not work here  -> sudo apt-get install -y openssh-client
        Ok data: /data
        Limited disk: 100 MiB are free in /data: images and disks need more  -> agent image list    then agent image remove NAME
        Ok policy: machines may run here
        Limited ports: UDP 7440 taken: the next free pair is used
        Ok names: the agent answers when it runs
        Limited agent: this host belongs to no mesh  -> agent init --name NAME    or agent join TOKEN
    "#]],
    );
}

#[test]
fn a_complete_host_needs_nothing() {
    let seen = Findings {
        qemu: Some("QEMU emulator version 9.2".into()),
        qemu_img: true,
        ssh: true,
        kvm: Kvm::Open,
        free_mib: Some(90_000),
        member: true,
        running: true,
        ..bare()
    };
    check(
        seen,
        expect![[r#"
        Ok qemu: QEMU emulator version 9.2
        Ok accelerator: /dev/kvm can be opened; the running agent proves its speed
        Ok qemu-img: converts images
        Ok ssh: enters machines
        Ok data: /data
        Ok disk: 87 GiB are free
        Ok policy: machines may run here
        Ok ports: the running agent has its ports
        Ok names: the running agent answers; `agent status` shows where
        Ok agent: runs
    "#]],
    );
}

#[test]
fn a_data_directory_that_cannot_be_used_is_told_with_its_way_out() {
    let refused = Some(("/data was written by a newer agent".to_owned(), "install it".to_owned()));
    let newer = examine(&Findings { refused, ..bare() });
    let data = newer.iter().find(|check| check.name == "data").unwrap();
    assert_eq!((data.state, data.mend.as_deref()), (CheckState::Missing, Some("install it")));
    assert_eq!(data.what, "/data was written by a newer agent");
}

#[test]
fn the_package_command_fits_the_system() {
    assert_eq!(packages("NAME=x\nID=ubuntu\nID_LIKE=debian\n"), Packages::Apt);
    assert_eq!(packages("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), Packages::Dnf);
    assert_eq!(packages("ID=alpine\n"), Packages::Apk);
    assert_eq!(packages(""), Packages::Apt);
}

#[test]
fn a_host_that_cannot_run_machines_is_not_told_to_install_qemu() {
    let arm = examine(&Findings { arch: "aarch64".into(), ..bare() });
    let qemu = arm.iter().find(|check| check.name == "qemu").unwrap();
    assert_eq!((qemu.state, &qemu.mend), (CheckState::Limited, &None));
}

#[test]
fn the_daemon_tells_what_it_proved() {
    told(
        &judge(&Inside {
            qemu: Some(("10.0.2".into(), Accelerator::Tcg, Some(NoKvm::Emulates { turns_10k_s: 175 }))),
            relays: Vec::new(),
            down: vec!["attic".into()],
            members: 3,
            clock_off: Some("this host's clock is 1h ahead of the mesh".into()),
            ..Inside::default()
        }),
        expect![[r#"
            Limited accelerator: QEMU 10.0.2 translates: machines run 10 to 30 times slower; /dev/kvm opens but emulates: 1.8 million loop turns a second, hardware does hundreds
            Missing names: the name server has no port  -> agent run --set dns.port=auto
            Limited relay: no relay: hosts behind other routers may not find this one  -> agent run --set relay.serve=on    on a host with a public address
            Limited mesh: 1 of 3 hosts not up: attic  -> agent host list
            Limited clock: this host's clock is 1h ahead of the mesh  -> timedatectl set-ntp true
        "#]],
    );
    told(
        &judge(&Inside {
            qemu: Some(("10.0.2".into(), Accelerator::Kvm, None)),
            dns: Some(([127, 0, 0, 1], 53).into()),
            serves: Some("http://203.0.113.4:7440".into()),
            members: 1,
            ..Inside::default()
        }),
        expect![[r#"
            Ok accelerator: KVM, proved at speed with QEMU 10.0.2
            Ok names: answered at 127.0.0.1:53
            Ok relay: this host serves http://203.0.113.4:7440
            Ok mesh: all 1 hosts are up
            Ok clock: nobody in the mesh contradicts it
        "#]],
    );
}

#[test]
fn what_keeps_hardware_from_being_used_has_a_command_against_it() {
    let refused = |no_kvm: NoKvm| {
        let because = no_kvm.to_string();
        let qemu = Some(("9.2".into(), Accelerator::Tcg, Some(no_kvm)));
        let accelerator = judge(&Inside { qemu, ..Inside::default() }).swap_remove(0);
        assert!(accelerator.what.contains(&because), "{accelerator:?}");
        accelerator.mend
    };
    let denied = refused(NoKvm::Denied { seen: "Permission denied (os error 13)".into() }).unwrap();
    assert!(denied.starts_with("sudo usermod -aG kvm $USER"), "{denied}");
    assert_eq!(examine(&Findings { kvm: Kvm::Denied, ..bare() })[1].mend.as_ref(), Some(&denied));
    let absent = refused(NoKvm::Absent).unwrap();
    assert!(absent.starts_with("sudo modprobe kvm_intel"), "{absent}");
    assert_eq!(refused(NoKvm::Hangs), None);
}

#[tokio::test]
async fn relays_are_tried_for_real() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = listener.local_addr().unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let host = |name: &str, relay: Option<SocketAddr>| HostRow {
        relay: relay.map(|address| format!("http://{address}")),
        ..HostRow::bare(proto::id::HostId([1; 32]), name.into(), proto::wire::api::MemberState::Up)
    };
    let hosts = [host("open", Some(open)), host("closed", Some(closed)), host("none", None)];
    let states: Vec<CheckState> = relays(&hosts).await.iter().map(|check| check.state).collect();
    assert_eq!(states, [CheckState::Ok, CheckState::Limited]);
}
