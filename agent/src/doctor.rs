//! Finds out what this host lacks. [`look`] gathers what can be seen from outside the daemon,
//! [`examine`] decides what it means and which command mends it. Nothing here changes anything.

pub mod firewall;
mod running;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, OpenOptions},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures::future::join_all;
use proto::wire::api::{Check, CheckState, Error, HostRow, Trouble};
use tokio::{net::TcpStream, time};

use crate::{
    config::Config,
    host::words::words,
    host::{data::DataDir, disk, limits},
};

pub use running::{Inside, MEND_CLOCK, judge};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// CPU architecture as QEMU spells it.
    pub arch: String,
    /// First line of `qemu-system-ARCH --version`.
    pub qemu: Option<String>,
    /// Whether `qemu-img` is there.
    pub qemu_img: bool,
    /// Whether `ssh` is there.
    pub ssh: bool,
    /// Whether `/dev/kvm` can be opened.
    pub kvm: Kvm,
    /// Which packages this system takes.
    pub packages: Packages,
    /// The data directory.
    pub data: PathBuf,
    /// Why the data directory cannot be used, and what mends it.
    pub refused: Option<(String, String)>,
    /// What is wrong with its disk.
    pub trouble: Option<Trouble>,
    /// Why the directory that it would be made in cannot be written.
    pub unwritable: Option<String>,
    /// Free MiB beside the data directory.
    pub free_mib: Option<u64>,
    /// Whether this host belongs to a mesh.
    pub member: bool,
    /// Whether a daemon answers.
    pub running: bool,
    /// Whether the owner lets machines run here.
    pub machines: bool,
    /// The first port of the pair, and which of the needed ports are taken.
    pub port: u16,
    /// Such as `UDP 7440`.
    pub taken: Vec<String>,
    /// Host firewalls.
    pub walls: firewall::Walls,
    /// How far files may grow, in bytes, if that is limited.
    pub file_bytes: Option<u64>,
}

/// How `/dev/kvm` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kvm {
    /// It does not exist.
    #[default]
    Absent,
    /// It exists and this user may not open it.
    Denied,
    /// It can be opened. Whether it is any good only the daemon's proof tells.
    Open,
}

/// Which packages a system takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packages {
    /// Debian, Ubuntu and their kin.
    #[default]
    Apt,
    /// Fedora and its kin.
    Dnf,
    /// Arch and its kin.
    Pacman,
    /// Alpine.
    Apk,
}

/// Below this a guest's disk and its image hardly fit.
const LOW_DISK_MIB: u64 = 2048;

/// Says that what makes the directory one host of a mesh cannot be read.
fn unknown(data: &DataDir) -> Option<(String, String)> {
    let error =
        mesh::identity::exists(data.path()).then(|| mesh::identity::check(data.path()).err()).flatten()?;
    Some((
        words(&error),
        "put identity/ and mesh/ back from a copy, or start anew in an empty directory".to_owned(),
    ))
}

/// Gathers what can be seen without the daemon's help.
pub fn look(data: &DataDir, config: Option<&Config>, running: bool) -> Findings {
    let arch = std::env::consts::ARCH.to_owned();
    let port = config.map_or(7440, |config| config.listen_port);
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let existing = data.path().ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let refused = disk::inspect(data).err().map(|error| (words(&error), error.next()));
    let guest = data.is_open_to_guest();
    let refused = refused.filter(|_| !guest).or_else(|| (!guest).then(|| unknown(data)).flatten());
    // Nothing is tried in a directory of somebody else, or in one that is not ours yet.
    let ours = refused.is_none() && existing == data.path() && !guest;
    Findings {
        refused,
        trouble: if ours { disk::look(data) } else { None },
        file_bytes: limits::file_bytes(),
        walls: firewall::look(data, port),
        qemu: first_line(Command::new(format!("qemu-system-{arch}")).arg("--version")),
        qemu_img: first_line(Command::new("qemu-img").arg("--version")).is_some(),
        ssh: Command::new("ssh").arg("-V").output().is_ok(),
        kvm: kvm(),
        packages: packages(&os),
        unwritable: rustix::fs::access(existing, rustix::fs::Access::WRITE_OK)
            .err()
            .filter(|_| !guest)
            .map(|error| error.to_string()),
        free_mib: rustix::fs::statvfs(existing).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20),
        member: data.identity().exists(),
        machines: config.is_none_or(|config| config.policy.machines),
        taken: if running { Vec::new() } else { taken(port) },
        data: data.path().to_owned(),
        arch,
        port,
        running,
    }
}

/// Decides what was seen means.
pub fn examine(seen: &Findings) -> Vec<Check> {
    let checks = vec![qemu(seen), accelerator(seen), qemu_img(seen), ssh(seen), data(seen), room(seen)];
    let checks = checks.into_iter().chain(file_size(seen));
    let checks = checks.chain([policy(seen), ports(seen)]).chain(firewall::judge(&seen.walls));
    checks.chain([names(seen), agent(seen)]).collect()
}

/// Says whether the name server answers: asked as any program of this host asks, because what the
/// server knows of itself is no proof.
pub fn names_answered(address: SocketAddr, asked: Result<(), &Error>) -> Check {
    match asked {
        Ok(()) => ok("names", format!("answered at {address}")),
        Err(error) => {
            let what = format!("{}: {}", error.what, error.because.as_deref().unwrap_or_default());
            let mend = "ip address show lo    then sudo ip link set lo up".to_owned();
            check("names", CheckState::Missing, what, Some(mend))
        }
    }
}

/// A relay that is there answers at once; the far side of the world takes a third of a second.
const RELAY_WITHIN: Duration = Duration::from_secs(3);

/// Tries to connect to every relay of the mesh, all at once.
pub async fn relays(hosts: &[HostRow]) -> Vec<Check> {
    let served = hosts.iter().filter_map(|host| Some((host.name.as_str(), host.relay.as_deref()?)));
    let tries = served.map(async |(name, url)| {
        let address = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
        let called = format!("relay of {name}");
        let tried = time::timeout(RELAY_WITHIN, TcpStream::connect(address)).await;
        let because = match tried {
            Ok(Ok(_)) => return ok(&called, format!("answers at {url}")),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", RELAY_WITHIN.as_secs()),
        };
        let mend = format!("on {name}: agent doctor, and let TCP and UDP of that port in");
        check(&called, CheckState::Limited, format!("{url} cannot be reached: {because}"), Some(mend))
    });
    join_all(tries).await
}

fn check(name: &str, state: CheckState, what: impl Into<String>, mend: Option<String>) -> Check {
    Check { name: name.to_owned(), state, what: what.into(), mend }
}

fn ok(name: &str, what: impl Into<String>) -> Check {
    check(name, CheckState::Ok, what, None)
}

fn qemu(seen: &Findings) -> Check {
    match &seen.qemu {
        Some(version) => ok("qemu", version),
        None if seen.arch != "x86_64" => {
            let what = format!("machines run on x86_64 hosts in this version, this one is {}", seen.arch);
            check("qemu", CheckState::Limited, what, None)
        }
        None => {
            let what = format!("qemu-system-{} is not installed: no machine runs here", seen.arch);
            let state = if seen.machines { CheckState::Missing } else { CheckState::Limited };
            check("qemu", state, what, Some(seen.install(Package::Qemu)))
        }
    }
}

/// What opens `/dev/kvm` to the user of the agent; a process keeps the groups it began with.
const KVM_DENIED: &str = "sudo usermod -aG kvm $USER    then log in again and start the agent anew";
/// What brings `/dev/kvm` into being on a computer that can do it.
const KVM_ABSENT: &str =
    "sudo modprobe kvm_intel    on AMD kvm_amd; if it refuses, look at VT-x or SVM in the firmware";

fn accelerator(seen: &Findings) -> Check {
    let slow = "machines run 10 to 30 times slower";
    match seen.kvm {
        Kvm::Open => ok("accelerator", "/dev/kvm can be opened; the running agent proves its speed"),
        Kvm::Denied => {
            let what = format!("/dev/kvm belongs to others: {slow}");
            check("accelerator", CheckState::Limited, what, Some(KVM_DENIED.to_owned()))
        }
        Kvm::Absent => {
            let what = format!("there is no /dev/kvm: {slow}; virtualisation may be off in the firmware");
            check("accelerator", CheckState::Limited, what, Some(KVM_ABSENT.to_owned()))
        }
    }
}

fn qemu_img(seen: &Findings) -> Check {
    if seen.qemu_img {
        return ok("qemu-img", "converts images");
    }
    let what = "qemu-img is not installed: qcow2 files cannot be imported";
    check("qemu-img", CheckState::Limited, what, Some(seen.install(Package::QemuImg)))
}

fn ssh(seen: &Findings) -> Check {
    if seen.ssh {
        return ok("ssh", "enters machines");
    }
    let what = "ssh is not installed: `machine ssh` does not work here";
    check("ssh", CheckState::Limited, what, Some(seen.install(Package::Ssh)))
}

fn data(seen: &Findings) -> Check {
    let dir = seen.data.display();
    if let Some((what, mend)) = &seen.refused {
        return check("data", CheckState::Missing, what, Some(mend.clone()));
    }
    if let Some(trouble) = &seen.trouble {
        return check("data", CheckState::Missing, disk::line(trouble), trouble.next.clone());
    }
    match &seen.unwritable {
        Some(error) => {
            let what = format!("{dir} cannot be written: {error}");
            let mend = format!("sudo install -d -o $USER {dir}    or use --data-dir DIR");
            check("data", CheckState::Missing, what, Some(mend))
        }
        None => ok("data", dir.to_string()),
    }
}

fn file_size(seen: &Findings) -> Option<Check> {
    let bytes = seen.file_bytes?;
    let what =
        format!("files may grow to {} MiB only (ulimit -f): images and disks fail beyond", bytes >> 20);
    let mend = "ulimit -f unlimited    before agent run".to_owned();
    Some(check("files", CheckState::Limited, what, Some(mend)))
}

fn room(seen: &Findings) -> Check {
    match seen.free_mib {
        Some(free) if free < LOW_DISK_MIB => {
            let what = format!("{free} MiB are free in {}: images and disks need more", seen.data.display());
            check(
                "disk",
                CheckState::Limited,
                what,
                Some("agent image list    then agent image remove NAME".into()),
            )
        }
        Some(free) => ok("disk", format!("{} GiB are free", free >> 10)),
        None => check("disk", CheckState::Limited, "the free space cannot be read", None),
    }
}

fn policy(seen: &Findings) -> Check {
    if seen.machines {
        return ok("policy", "machines may run here");
    }
    let mend = "agent run --set policy.machines=true".to_owned();
    check("policy", CheckState::Limited, "the settings say that no machine runs here", Some(mend))
}

fn ports(seen: &Findings) -> Check {
    let pair = format!("{} and {}", seen.port, seen.port + 1);
    if seen.running {
        return ok("ports", "the running agent has its ports");
    }
    match &seen.taken[..] {
        [] => ok("ports", format!("{pair} are free")),
        taken => {
            let what = format!("{} taken: the next free pair is used", taken.join(", "));
            check("ports", CheckState::Limited, what, None)
        }
    }
}

fn names(seen: &Findings) -> Check {
    match seen.running {
        true => ok("names", "the running agent answers; `agent status` shows where"),
        false => ok("names", "the agent answers when it runs"),
    }
}

fn agent(seen: &Findings) -> Check {
    match (seen.member, seen.running) {
        (_, true) => ok("agent", "runs"),
        (true, false) => check("agent", CheckState::Limited, "does not run", Some("agent run".to_owned())),
        (false, false) => {
            let mend = "agent init --name NAME    or agent join TOKEN".to_owned();
            check("agent", CheckState::Limited, "this host belongs to no mesh", Some(mend))
        }
    }
}

#[derive(Clone, Copy)]
enum Package {
    Qemu,
    QemuImg,
    Ssh,
}

impl Findings {
    fn install(&self, package: Package) -> String {
        let name = match (self.packages, package) {
            (Packages::Apt, Package::Qemu) => "qemu-system-x86",
            (Packages::Apt, Package::QemuImg) => "qemu-utils",
            (Packages::Apt, Package::Ssh) => "openssh-client",
            (Packages::Dnf, Package::Qemu) => "qemu-kvm",
            (Packages::Pacman, Package::Qemu) => "qemu-base",
            (Packages::Apk, Package::Qemu) => "qemu-system-x86_64",
            (_, Package::QemuImg) => "qemu-img",
            (Packages::Dnf, Package::Ssh) => "openssh-clients",
            (Packages::Apk, Package::Ssh) => "openssh-client",
            (Packages::Pacman, Package::Ssh) => "openssh",
        };
        match self.packages {
            Packages::Apt => format!("sudo apt-get install -y {name}"),
            Packages::Dnf => format!("sudo dnf install -y {name}"),
            Packages::Pacman => format!("sudo pacman -S --noconfirm {name}"),
            Packages::Apk => format!("sudo apk add {name}"),
        }
    }
}

fn packages(os_release: &str) -> Packages {
    let ids =
        os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    let words: Vec<&str> = ids.flat_map(|ids| ids.trim_matches('"').split(' ')).collect();
    let is = |names: &[&str]| words.iter().any(|word| names.contains(word));
    match () {
        () if is(&["fedora", "rhel", "centos"]) => Packages::Dnf,
        () if is(&["arch"]) => Packages::Pacman,
        () if is(&["alpine"]) => Packages::Apk,
        () => Packages::Apt,
    }
}

fn kvm() -> Kvm {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Kvm::Open,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kvm::Denied,
        Err(_) => Kvm::Absent,
    }
}

fn taken(port: u16) -> Vec<String> {
    let mut taken = Vec::new();
    for port in [port, port.saturating_add(1)] {
        if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).is_err()
            && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_err()
        {
            taken.push(format!("UDP {port}"));
        }
    }
    if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() {
        taken.push(format!("TCP {port}"));
    }
    taken
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
