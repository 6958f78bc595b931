//! How QEMU is started. Pure: (launch, facts, paths) -> arguments. Formats are always explicit, nothing
//! comes from defaults or configuration files, and the guest waits (`-S`) until the shim holds its
//! console and network, so that not one byte or frame is lost.

use std::{ffi::OsString, path::Path};

use proto::session::Accelerator;
use serde_json::{Value, json};

use super::{
    qemu::QemuFacts,
    record::{Launch, Paths},
};

/// Gives QEMU's arguments, without the program.
pub fn argv(launch: &Launch, facts: &QemuFacts, paths: &Paths) -> Vec<OsString> {
    let spec = &launch.spec;
    let mut args = Args(Vec::new());
    args.flag("-nodefaults").flag("-no-user-config").flag("-S");
    // The two by which it is recognised, whatever becomes of its directory.
    args.pair("-name", format!("{},debug-threads=on", launch.mark(paths)));
    args.pair("-uuid", launch.who().uuid());
    // Without graphics the firmware talks on the serial console.
    args.pair("-machine", format!("{},graphics=off", facts.machine));
    args.pair(
        "-accel",
        match facts.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        },
    );
    args.pair("-cpu", facts.cpu.as_str());
    args.pair("-smp", spec.cpus.to_string());
    args.pair("-m", format!("size={}M", spec.memory_mib));
    args.pair("-rtc", "base=utc");
    args.pair("-display", "none");
    // A panicked guest is held, so that we see why it ended before it does.
    args.pair("-action", "panic=pause");
    if facts.sandbox {
        let deny = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        args.pair("-sandbox", deny);
    }
    args.pair("-chardev", listening("socket,id=qmp", "path", &paths.qmp()));
    args.pair("-mon", "chardev=qmp,mode=control");
    args.pair("-chardev", listening("socket,id=console", "path", &paths.serial()));
    args.pair("-serial", "chardev:console");
    disks(&mut args, launch, paths);

    let mac = spec.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mtu = proto::limits::GUEST_MTU;
    let netdev = format!("stream,id=net,server=on,addr.type=unix,addr.path={}", escaped(&paths.nic()));
    args.pair("-netdev", netdev);
    // No boot ROM: nothing here boots from the network.
    args.pair("-device", format!("virtio-net-pci,netdev=net,mac={mac},host_mtu={mtu},romfile="));
    if facts.rng {
        args.pair("-device", "virtio-rng-pci");
    }
    if facts.pvpanic {
        args.pair("-device", "pvpanic-pci");
    }
    args.0
}

/// The whole chain is spelled out, so that nothing that a guest writes into its disk's header is
/// ever opened.
fn disks(args: &mut Args, launch: &Launch, paths: &Paths) {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let base = json!({
        "driver": "raw", "node-name": "base", "read-only": true,
        "file": {"driver": "file", "filename": text(&launch.base)},
    });
    let disk = json!({
        "driver": "qcow2", "node-name": "disk", "discard": "unmap", "backing": "base",
        "file": {"driver": "file", "filename": text(&paths.disk()), "discard": "unmap"},
    });
    let seed = json!({
        "driver": "raw", "node-name": "seed", "read-only": true,
        "file": {"driver": "file", "filename": text(&paths.seed())},
    });
    let mut blockdev = |value: Value| args.pair("-blockdev", value.to_string());
    blockdev(base);
    blockdev(disk);
    blockdev(seed);
    // A guest never sees an error of this host's disk: it is held until the disk works again.
    let held = "werror=stop,rerror=stop";
    args.pair("-device", format!("virtio-blk-pci,drive=disk,bootindex=0,{held}"));
    args.pair("-device", format!("virtio-blk-pci,drive=seed,{held}"));
}

fn listening(start: &str, key: &str, path: &Path) -> String {
    format!("{start},{key}={},server=on,wait=off", escaped(path))
}

/// A comma ends a value in QEMU's options; two stand for one.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Args {
        self.0.push(flag.into());
        self
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }
}
