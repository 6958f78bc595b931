//! A router that maps ports for who asks: PCP (RFC 6887) and NAT-PMP (RFC 6886), as far as their clients ask. What is
//! mapped stands in two maps of the router's rules, `tcps` and `udps`, where tests find it and take it away.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Where routers are asked.
const PORT: u16 = 5351;
/// Ports that are given when the wished one is another host's.
const FIRST_GIVEN: u16 = 20_000;
/// How long a mapping lives at most, in seconds.
const LIFETIME_S: u32 = 7200;
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Tcp,
    Udp,
}

/// A host's port.
type Inside = (Ipv4Addr, u16);

/// What the router has mapped.
#[derive(Debug, Default)]
struct Mapped(BTreeMap<(Transport, u16), Inside>);

impl Mapped {
    /// Maps a port, the same one again for who has it.
    fn map(&mut self, transport: Transport, inside: Inside, wished: u16) -> u16 {
        let has = self.0.iter().find(|((other, _), held)| *other == transport && **held == inside);
        if let Some(((_, port), _)) = has {
            return *port;
        }
        let wished = if wished == 0 { inside.1 } else { wished };
        let is_free = |port: &u16| !self.0.contains_key(&(transport, *port));
        let port = std::iter::once(wished).chain(FIRST_GIVEN..=u16::MAX).find(is_free).unwrap_or(wished);
        self.0.insert((transport, port), inside);
        port
    }

    fn unmap(&mut self, transport: Transport, inside: Inside) {
        self.0.retain(|(other, _), held| *other != transport || *held != inside);
    }

    /// Writes the two maps as `nft` reads them.
    fn rules(&self) -> String {
        let mut text = String::from("flush map ip nat tcps\nflush map ip nat udps\n");
        for ((transport, port), (host, inside)) in &self.0 {
            let map = if *transport == Transport::Tcp { "tcps" } else { "udps" };
            text += &format!("add element ip nat {map} {{ {port} : {host} . {inside} }}\n");
        }
        text
    }
}

/// Answers one question; `None` = it is none.
fn answer(
    question: &[u8],
    from: Ipv4Addr,
    public: Ipv4Addr,
    mapped: &mut Mapped,
    epoch_s: u32,
) -> Option<Vec<u8>> {
    match question {
        [2, 0, ..] if question.len() >= 24 => Some(pcp(0, 0, epoch_s)),
        [2, 1, ..] if question.len() >= 60 => {
            let transport = if question[36] == 6 { Transport::Tcp } else { Transport::Udp };
            let (inside, wished) = (word(question, 40), word(question, 42));
            let lifetime = u32::from_be_bytes(question[4..8].try_into().ok()?).min(LIFETIME_S);
            let port = change(mapped, transport, (from, inside), wished, lifetime);
            let mut reply = pcp(1, lifetime, epoch_s);
            reply.extend(&question[24..42]);
            reply.extend(port.to_be_bytes());
            reply.extend(public.to_ipv6_mapped().octets());
            Some(reply)
        }
        [0, 0, ..] => {
            let mut reply = vec![0, 128, 0, 0];
            reply.extend(epoch_s.to_be_bytes());
            reply.extend(public.octets());
            Some(reply)
        }
        [0, kind @ (1 | 2), ..] if question.len() >= 12 => {
            let transport = if *kind == 2 { Transport::Tcp } else { Transport::Udp };
            let (inside, wished) = (word(question, 4), word(question, 6));
            let lifetime = u32::from_be_bytes(question[8..12].try_into().ok()?).min(LIFETIME_S);
            let port = change(mapped, transport, (from, inside), wished, lifetime);
            let mut reply = vec![0, 128 + kind, 0, 0];
            reply.extend(epoch_s.to_be_bytes());
            reply.extend(&question[4..6]);
            reply.extend(port.to_be_bytes());
            reply.extend(lifetime.to_be_bytes());
            Some(reply)
        }
        _ => None,
    }
}

fn change(mapped: &mut Mapped, transport: Transport, inside: Inside, wished: u16, lifetime: u32) -> u16 {
    if lifetime == 0 {
        mapped.unmap(transport, inside);
        return 0;
    }
    mapped.map(transport, inside, wished)
}

fn pcp(operation: u8, lifetime: u32, epoch_s: u32) -> Vec<u8> {
    let mut reply = vec![2, 128 + operation, 0, 0];
    reply.extend(lifetime.to_be_bytes());
    reply.extend(epoch_s.to_be_bytes());
    reply.extend([0; 12]);
    reply
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Serves until told to end. To be called in the router's namespace, which the threads of it stay in.
pub(crate) fn serve(
    lan: Ipv4Addr,
    public: Ipv4Addr,
    ended: Arc<AtomicBool>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let socket = UdpSocket::bind((lan, PORT))?;
    socket.set_read_timeout(Some(LOOK))?;
    thread::Builder::new().name("mapper".into()).spawn(move || run(&socket, public, &ended))
}

fn run(socket: &UdpSocket, public: Ipv4Addr, ended: &AtomicBool) -> io::Result<()> {
    let (mut mapped, started) = (Mapped::default(), Instant::now());
    let mut buffer = [0; 1100];
    while !ended.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if passes(error.kind()) => continue,
            Err(error) => return Err(error),
        };
        let SocketAddr::V4(asker) = from else { continue };
        let before = mapped.rules();
        let epoch_s = u32::try_from(started.elapsed().as_secs()).unwrap_or(u32::MAX);
        let Some(reply) = answer(&buffer[..length], *asker.ip(), public, &mut mapped, epoch_s) else {
            continue;
        };
        let after = mapped.rules();
        if before != after {
            tell_kernel(&after)?;
        }
        socket.send_to(&reply, (IpAddr::V4(*asker.ip()), asker.port()))?;
    }
    Ok(())
}

/// Tells whether an error is nothing but a moment without a question. A socket whose reads end is interrupted by signals
/// that nobody handles.
fn passes(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn tell_kernel(rules: &str) -> io::Result<()> {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let status = nft.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("nft refused:\n{rules}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 250);
    const NAS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const TV: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 3);

    fn pmp(kind: u8, inside: u16, lifetime: u32) -> Vec<u8> {
        let mut question = vec![0, kind, 0, 0];
        question.extend(inside.to_be_bytes());
        question.extend([0, 0]);
        question.extend(lifetime.to_be_bytes());
        question
    }

    #[test]
    fn a_port_is_mapped_by_nat_pmp_and_the_second_host_gets_another() {
        let mut mapped = Mapped::default();
        let reply = answer(&pmp(1, 7440, 60), NAS, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(reply, [0, 129, 0, 0, 0, 0, 0, 5, 0x1d, 0x10, 0x1d, 0x10, 0, 0, 0, 60]);
        let again = answer(&pmp(1, 7440, 60), NAS, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(again, reply);
        let second = answer(&pmp(1, 7440, 60), TV, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(word(&second, 10), FIRST_GIVEN);
        answer(&pmp(2, 7440, 60), TV, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(
            mapped.rules(),
            "flush map ip nat tcps\nflush map ip nat udps\n\
             add element ip nat tcps { 7440 : 192.168.1.3 . 7440 }\n\
             add element ip nat udps { 7440 : 192.168.1.2 . 7440 }\n\
             add element ip nat udps { 20000 : 192.168.1.3 . 7440 }\n"
        );
        answer(&pmp(1, 7440, 0), NAS, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(mapped.0.len(), 2);
        let address = answer(&[0, 0], NAS, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(address, [0, 128, 0, 0, 0, 0, 0, 5, 203, 0, 113, 250]);
    }

    #[test]
    fn a_port_is_mapped_by_pcp() {
        let mut mapped = Mapped::default();
        let mut question = vec![2, 1, 0, 0, 0, 0, 0, 60];
        question.extend(NAS.to_ipv6_mapped().octets());
        question.extend([9; 12]);
        question.extend([6, 0, 0, 0, 0x1d, 0x10, 0, 0]);
        question.extend([0; 16]);
        let reply = answer(&question, NAS, PUBLIC, &mut mapped, 5).unwrap();
        assert_eq!(reply[..12], [2, 129, 0, 0, 0, 0, 0, 60, 0, 0, 0, 5]);
        assert_eq!(reply[24..36], [9; 12]);
        assert_eq!((word(&reply, 40), word(&reply, 42)), (7440, 7440));
        assert_eq!(reply[44..], PUBLIC.to_ipv6_mapped().octets());
        assert_eq!(mapped.0, [((Transport::Tcp, 7440), (NAS, 7440))].into());
        question[1] = 0;
        assert_eq!(answer(&question, NAS, PUBLIC, &mut mapped, 5).unwrap().len(), 24);
        assert_eq!(answer(&question[..10], NAS, PUBLIC, &mut mapped, 5), None);
        assert_eq!(answer(b"", NAS, PUBLIC, &mut mapped, 5), None);
    }
}
