//! One socket for datagrams or pings to the outside.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use mesh::link::{Family, Heard, Kind};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::{net::UdpSocket, sync::mpsc};

use super::{Told, Waiting};

/// More than the guest's wire takes: what is longer is seen to be too long, and lost.
const DATAGRAM_BYTES: usize = 2048;
/// What the kernel keeps of a socket's datagrams until they are read: a burst of fifty.
const KERNEL_BYTES: usize = 64 * 1024;

/// Carries datagrams until nobody wants them any more. It is an error when the socket breaks or cannot be had.
pub async fn carry(id: u64, kind: Kind, told: &Told, mut queued: mpsc::Receiver<Waiting>) -> io::Result<()> {
    let socket = open(kind)?;
    // Where it may not be set, it is as the system has it.
    sockopt::set_socket_recv_buffer_size(&socket, KERNEL_BYTES).ok();
    loop {
        // Neither arm has done anything before it is ready.
        tokio::select! {
            datagram = queued.recv() => match datagram {
                // An error is about an earlier datagram, or about this one's way: a wire loses it, too.
                Some((to, bytes, _place)) => drop(socket.send_to(&bytes, to).await),
                None => return Ok(()),
            },
            ready = socket.readable() => {
                ready?;
                if let Some((from, bytes)) = received(&socket)
                    && told.tell(Heard::Datagram { id, from, bytes }).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }
}

fn received(socket: &UdpSocket) -> Option<(SocketAddr, Bytes)> {
    let mut buffer = [0; DATAGRAM_BYTES];
    let (count, from) = socket.try_recv_from(&mut buffer).ok()?;
    Some((from, Bytes::copy_from_slice(&buffer[..count])))
}

/// Opens a socket of one protocol alone; for echo requests where the host allows this group to (`ping_group_range`).
fn open(kind: Kind) -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |family, protocol: Option<Protocol>| socket_with(family, SocketType::DGRAM, flags, protocol);
    let socket = match kind {
        Kind::Udp(Family::V4, _) => socket(AddressFamily::INET, None)?,
        Kind::Echo(Family::V4, _) => socket(AddressFamily::INET, Some(ipproto::ICMP))?,
        Kind::Udp(Family::V6, _) => socket(AddressFamily::INET6, None)?,
        Kind::Echo(Family::V6, _) => socket(AddressFamily::INET6, Some(ipproto::ICMPV6))?,
    };
    match kind {
        Kind::Udp(Family::V4, _) => bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?,
        Kind::Udp(Family::V6, _) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        }
        // The kernel gives it a number when it first sends.
        Kind::Echo(..) => {}
    }
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}
