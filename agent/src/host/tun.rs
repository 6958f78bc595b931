//! An interface of this host whose packets a program carries: `/dev/net/tun` of Linux. It goes when its file is closed,
//! with its addresses and routes. They are set by `ip` of iproute2, which every system with such interfaces has.

use std::{
    fs::File,
    io::{self, Read, Write},
    process::Stdio,
};

use rustix::fs::{Mode, OFlags, open};
use tokio::{io::unix::AsyncFd, process::Command};

/// More than any packet of it.
const PACKET_BYTES: usize = 2048;

/// An interface that this program carries.
pub struct Tun {
    file: AsyncFd<File>,
    name: String,
}

impl Tun {
    /// Makes one; `%d` in its name becomes the first free number. Without `CAP_NET_ADMIN` it is refused.
    pub fn open(name: &str) -> io::Result<Tun> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(open("/dev/net/tun", flags, Mode::empty())?);
        let name = system::set_interface(&file, name)?;
        Ok(Tun { file: system::register(file)?, name })
    }

    /// Tells what it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a packet of this host's programs. Cancel-safe: what is not read stays in the kernel.
    pub async fn read(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.file.readable().await?;
            let mut packet = vec![0; PACKET_BYTES];
            match ready.try_io(|file| file.get_ref().read(&mut packet)) {
                Ok(Ok(count)) => {
                    packet.truncate(count);
                    return Ok(packet);
                }
                Ok(Err(error)) => return Err(error),
                // Somebody else read it.
                Err(_) => {}
            }
        }
    }

    /// Gives this host's programs a packet. One that the kernel does not take now is lost, as on a wire.
    pub fn write(&self, packet: &[u8]) {
        // The kernel takes a packet whole or not at all.
        let _taken = self.file.get_ref().write(packet);
    }
}

/// Has `ip` do something; what it says is the error.
pub async fn ip(words: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", words.join(" "), said.trim())))
}

/// The one ioctl that makes a file of /dev/net/tun an interface, and the waiting for it.
// Unsafe is needed because no safe wrapper of TUNSETIFF exists, and because tokio cannot know whose a descriptor is.
#[allow(unsafe_code)]
mod system {
    use std::{fs::File, io, os::fd::AsFd};

    use rustix::ioctl::{Opcode, Updater, ioctl};
    use tokio::io::unix::AsyncFd;

    const TUNSETIFF: Opcode = 0x4004_54ca;
    const IFF_TUN: i16 = 0x0001;
    /// Packets without a header of the driver's.
    const IFF_NO_PI: i16 = 0x1000;

    /// `struct ifreq` of linux/if.h: a name, then a union of which only the flags are used.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        rest_of_union: [u8; 22],
    }

    /// Lets the file be waited for.
    pub fn register(file: File) -> io::Result<AsyncFd<File>> {
        // SAFETY: a `File` owns its descriptor, and this one is neither replaced nor closed while it is registered.
        Ok(unsafe { AsyncFd::register(file) }?)
    }

    /// Makes an interface and gives the name that it got.
    pub fn set_interface(file: impl AsFd, name: &str) -> io::Result<String> {
        let mut request =
            InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest_of_union: [0; 22] };
        if name.len() >= request.name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq` through the pointer. `InterfaceRequest` has its layout and
        // size (40 bytes on 64-bit Linux) and lives until the call returns.
        let updater = unsafe { Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request) };
        // SAFETY: the opcode fits the updater, and the kernel keeps no pointer.
        unsafe { ioctl(file, updater) }?;
        let length = request.name.iter().position(|byte| *byte == 0).unwrap_or(request.name.len());
        Ok(String::from_utf8_lossy(&request.name[..length]).into_owned())
    }
}
