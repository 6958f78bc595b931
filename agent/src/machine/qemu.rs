//! Finds the local QEMU and asks it what it can do. The answer is one value, [`QemuFacts`], from which
//! `argv` decides. Nothing is concluded from a version number, except that 7.2 is the oldest we know.
//! The proof of the accelerator takes up to seconds, so the facts are kept until boot, kernel or QEMU change.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use minicbor::{Decode, Encode};
use proto::{reasons::NoKvm, session::Accelerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    accelerator::{LONGEST, Verdict, prove_kvm},
    guard, process,
    qmp::{Qmp, QmpError},
};
use crate::host::durable;

/// How long one question may take on a loaded host.
const WITHIN: Duration = Duration::from_secs(10);
/// What translated guests get: the x86-64-v2 level, which current distributions ask for, the same
/// on every host.
const TRANSLATED_CPU: &str = "Nehalem-v1";
/// What accelerated guests get. Nothing moves live in this version, so nothing is gained by less.
const NATIVE_CPU: &str = "host";

/// What the local QEMU is and can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct QemuFacts {
    /// The emulator.
    #[cbor(n(0), with = "proto::wire::fields::path")]
    pub program: PathBuf,
    /// The disk tool.
    #[cbor(n(1), with = "proto::wire::fields::path")]
    pub disk_tool: PathBuf,
    /// Its version, such as `10.0.2`.
    #[n(2)]
    pub version: String,
    /// The versioned machine type, such as `pc-q35-10.0`.
    #[n(3)]
    pub machine: String,
    /// The CPU model for guests.
    #[n(4)]
    pub cpu: String,
    /// The proved accelerator.
    #[n(5)]
    pub accelerator: Accelerator,
    /// Why hardware acceleration is not used, in words.
    #[n(6)]
    pub refused: Option<String>,
    /// The same as a value.
    #[serde(default)]
    #[cbor(n(7), with = "proto::wire::fields::reason", has_nil)]
    pub no_kvm: Option<NoKvm>,
    /// Whether it can lock itself in (`-sandbox`); absent = it cannot.
    #[cbor(n(8), default)]
    pub sandbox: bool,
    /// Whether a guest can report its panic; absent = it cannot.
    #[cbor(n(9), default)]
    pub pvpanic: bool,
    /// Whether a guest can be given random numbers; absent = it cannot.
    #[cbor(n(10), default)]
    pub rng: bool,
}

/// What is known of the local QEMU by now.
#[derive(Clone, Debug, Default)]
pub enum Qemu {
    /// It is being asked; that takes up to seconds after a start.
    #[default]
    Probing,
    /// It runs machines.
    Usable(Arc<QemuFacts>),
    /// No machine can run here, and why.
    Unusable(String),
}

impl Qemu {
    /// Gives the facts of a usable QEMU.
    pub fn usable(&self) -> Option<Arc<QemuFacts>> {
        match self {
            Qemu::Usable(facts) => Some(facts.clone()),
            Qemu::Probing | Qemu::Unusable(_) => None,
        }
    }
}

/// Why this host runs no machines.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A program is not installed.
    #[error(
        "{program} is not installed (Debian, Ubuntu: apt install {package}; Fedora: dnf install {program})"
    )]
    Missing {
        /// The program.
        program: String,
        /// Its package.
        package: String,
    },
    /// It runs on x86_64 only.
    #[error("machines run on x86_64 hosts in this version, and this one is {0}")]
    Arch(&'static str),
    /// It lacks what we need.
    #[error("QEMU {version} at {program} is too old or built without {lacks}; 7.2 is the oldest that works")]
    Lacks {
        /// Its path.
        program: PathBuf,
        /// Its version.
        version: String,
        /// What is missing.
        lacks: &'static str,
    },
    /// It could not be asked.
    #[error("cannot ask QEMU at {0} what it can do")]
    Ask(PathBuf, #[source] QmpError),
    /// It could not be run, or the answer not be kept.
    #[error("cannot try QEMU out")]
    Io(#[from] io::Error),
}

/// What the facts depend on.
#[derive(PartialEq, Serialize, Deserialize)]
struct Cached {
    boot: String,
    kernel: String,
    /// Size and change time of the program: a new package changes them.
    program: (PathBuf, u64, i64),
    /// By which bound KVM was proved; older agents had others and did not say so.
    #[serde(default)]
    longest_ms: u64,
    facts: QemuFacts,
}

/// Finds, asks and proves the local QEMU, or remembers the answer from the file `cache`. `agent` is the
/// agent's program: a QEMU that is asked dies with who asks it.
pub async fn probe(cache: &Path, agent: &Path) -> Result<QemuFacts, ProbeError> {
    if env::consts::ARCH != "x86_64" {
        return Err(ProbeError::Arch(env::consts::ARCH));
    }
    let program = find("qemu-system-x86_64", "qemu-system-x86")?;
    let disk_tool = find("qemu-img", "qemu-utils")?;
    let boot = process::boot()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let meta = fs::metadata(&program)?;
    let program_id = (program.clone(), meta.len(), std::os::unix::fs::MetadataExt::mtime(&meta));
    let longest_ms = LONGEST.as_millis() as u64;
    // A cache that cannot be read is no cache.
    if let Some(cached) = fs::read(cache).ok().and_then(|text| serde_json::from_slice::<Cached>(&text).ok())
        && (&cached.boot, &cached.kernel, &cached.program) == (&boot, &kernel, &program_id)
        && cached.longest_ms == longest_ms
        && cached.facts.disk_tool == disk_tool
        // An older agent kept the words of the refusal only.
        && cached.facts.refused.is_some() == cached.facts.no_kvm.is_some()
    {
        return Ok(cached.facts);
    }
    let facts = tokio::time::timeout(WITHIN * 2, ask(agent, &program, &disk_tool)).await;
    let facts = facts
        .unwrap_or_else(|_| Err(ProbeError::Ask(program.clone(), QmpError::Late("what it can do".into()))))?;
    let cached = Cached { boot, kernel, program: program_id, longest_ms, facts };
    if let Err(error) = serde_json::to_vec_pretty(&cached)
        .map_err(io::Error::from)
        .and_then(|text| durable::write(cache, &text))
    {
        tracing::debug!(%error, "what QEMU can do is not remembered; it is asked again at the next start");
    }
    Ok(cached.facts)
}

/// Finds `program` on the PATH.
pub(super) fn find(program: &str, package: &str) -> Result<PathBuf, ProbeError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| ProbeError::Missing { program: program.into(), package: package.into() })
}

async fn ask(agent: &Path, program: &Path, disk_tool: &Path) -> Result<QemuFacts, ProbeError> {
    let words = ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"];
    let mut child = Command::new(agent)
        .args(guard::wrapped(program, words))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(write), Some(read)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
    };
    let wrong = |error| ProbeError::Ask(program.to_owned(), error);
    let (qmp, _events) = Qmp::over(read, write, WITHIN).await.map_err(wrong)?;
    let answers = Answers {
        version: qmp.call("query-version", Value::Null, WITHIN).await.map_err(wrong)?,
        machines: qmp.call("query-machines", Value::Null, WITHIN).await.map_err(wrong)?,
        schema: qmp.call("query-qmp-schema", Value::Null, WITHIN).await.map_err(wrong)?,
        devices: qmp.call("qom-list-types", json!({"implements": "device"}), WITHIN).await.map_err(wrong)?,
        nic: qmp
            .call("device-list-properties", json!({"typename": "virtio-net-pci"}), WITHIN)
            .await
            .map_err(wrong)?,
        accelerators: qmp
            .call("qom-list-types", json!({"implements": "accel"}), WITHIN)
            .await
            .map_err(wrong)?,
        // Refused by a QEMU that was built without it.
        sandbox: qmp.call("query-command-line-options", json!({"option": "sandbox"}), WITHIN).await.is_ok(),
    };
    // It ends by itself or is killed when `child` is dropped.
    qmp.call("quit", Value::Null, WITHIN).await.ok();
    let (facts, kvm) = conclude(program, disk_tool, &answers)?;
    if !kvm {
        return Ok(facts.translated(NoKvm::NotBuilt));
    }
    let (agent, tried, machine) = (agent.to_owned(), program.to_owned(), facts.machine.clone());
    let verdict = tokio::task::spawn_blocking(move || prove_kvm(&agent, &tried, &machine, NATIVE_CPU)).await;
    match verdict.map_err(io::Error::other)?? {
        Verdict::Fast => Ok(QemuFacts { accelerator: Accelerator::Kvm, cpu: NATIVE_CPU.into(), ..facts }),
        Verdict::Refused(no_kvm) => Ok(facts.translated(no_kvm)),
    }
}

impl QemuFacts {
    /// Gives the same QEMU without hardware acceleration, and why.
    pub fn translated(self, no_kvm: NoKvm) -> QemuFacts {
        let (refused, no_kvm) = (Some(no_kvm.to_string()), Some(no_kvm));
        QemuFacts { accelerator: Accelerator::Tcg, cpu: TRANSLATED_CPU.into(), refused, no_kvm, ..self }
    }
}

/// QEMU's own words.
struct Answers {
    version: Value,
    machines: Value,
    schema: Value,
    devices: Value,
    nic: Value,
    accelerators: Value,
    sandbox: bool,
}

/// Concludes the facts of translated guests, and whether KVM is worth a try.
fn conclude(program: &Path, disk_tool: &Path, answers: &Answers) -> Result<(QemuFacts, bool), ProbeError> {
    let number = |part: &str| answers.version["qemu"][part].as_u64().unwrap_or(0);
    let version = format!("{}.{}.{}", number("major"), number("minor"), number("micro"));
    let lacks = |lacks| ProbeError::Lacks { program: program.to_owned(), version: version.clone(), lacks };
    let named = |list: &Value, name: &str| items(list).iter().any(|item| item["name"] == name);

    // Enum values are the only names that the schema does not hide.
    let netdev = |kind: &&Value| {
        let values = items(&kind["values"]);
        ["tap", "user", "stream"].iter().all(|name| values.iter().any(|value| value == name))
    };
    items(&answers.schema).iter().find(netdev).ok_or_else(|| lacks("network cards on unix sockets"))?;
    if !named(&answers.nic, "host_mtu") {
        return Err(lacks("virtio network cards"));
    }
    if !named(&answers.accelerators, "tcg-accel") {
        return Err(lacks("its translator (TCG)"));
    }
    let q35 = items(&answers.machines).iter().find(|machine| machine["alias"] == "q35");
    let machine =
        q35.and_then(|machine| machine["name"].as_str()).ok_or_else(|| lacks("machine type q35"))?;
    let facts = QemuFacts {
        program: program.to_owned(),
        disk_tool: disk_tool.to_owned(),
        version: version.clone(),
        machine: machine.to_owned(),
        cpu: TRANSLATED_CPU.into(),
        accelerator: Accelerator::Tcg,
        refused: None,
        no_kvm: None,
        sandbox: answers.sandbox,
        pvpanic: named(&answers.devices, "pvpanic-pci"),
        rng: named(&answers.devices, "virtio-rng-pci"),
    };
    Ok((facts, named(&answers.accelerators, "kvm-accel")))
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        Answers {
            version: json!({"qemu": {"major": 7, "minor": 2, "micro": 22}}),
            machines: json!([{"name": "pc-q35-7.2", "alias": "q35"}, {"name": "none"}]),
            schema: json!([{"name": "7", "values": ["none", "user", "tap", "stream"]}]),
            devices: json!([{"name": "pvpanic-pci"}]),
            nic: json!([{"name": "host_mtu"}]),
            accelerators: json!([{"name": "tcg-accel"}]),
            sandbox: true,
        }
    }

    fn check(answers: Answers) -> Result<(QemuFacts, bool), String> {
        conclude(Path::new("q"), Path::new("i"), &answers).map_err(|error| error.to_string())
    }

    #[test]
    fn the_versioned_machine_type_is_used_and_devices_only_when_they_exist() {
        let (facts, kvm) = check(answers()).unwrap();
        assert_eq!((facts.machine.as_str(), facts.version.as_str()), ("pc-q35-7.2", "7.2.22"));
        assert!(facts.pvpanic && !facts.rng && !kvm);
    }

    #[test]
    fn a_qemu_without_stream_sockets_is_refused_by_name_and_version() {
        let old = Answers { schema: json!([{"values": ["user", "tap"]}, 7]), ..answers() };
        let error = check(old).unwrap_err();
        assert_eq!(
            error,
            "QEMU 7.2.22 at q is too old or built without network cards on unix sockets; 7.2 is the oldest that works"
        );
    }

    #[test]
    fn nonsense_from_qemu_is_a_refusal() {
        let nothing = Answers {
            version: Value::Null,
            machines: json!(7),
            schema: json!({}),
            devices: json!(""),
            nic: Value::Null,
            accelerators: Value::Null,
            sandbox: false,
        };
        assert!(check(nothing).is_err());
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("no-such-qemu", "qemu-utils").unwrap_err().to_string();
        assert!(error.starts_with("no-such-qemu is not installed (Debian, Ubuntu: apt install qemu-utils"));
    }
}
