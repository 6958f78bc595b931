//! Who has a port of this computer: the process, as far as this user may see it.

use std::{fs, path::Path};

/// The tables of sockets; those of TCP tell which of them listen.
const TABLES: [&str; 4] = ["udp", "udp6", "tcp", "tcp6"];
/// How a TCP socket that listens is marked there.
const LISTENS: &str = "0A";

/// Names the process that has a port, over UDP or listening over TCP.
pub fn holder(port: u16) -> Option<String> {
    let tables = TABLES.iter().filter_map(|table| {
        Some((table.starts_with("tcp"), fs::read_to_string(Path::new("/proc/net").join(table)).ok()?))
    });
    let sockets: Vec<String> = tables.flat_map(|(tcp, table)| sockets(&table, port, tcp)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbered =
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    numbered.find_map(|(pid, path)| {
        let mut open = fs::read_dir(path.join("fd")).ok()?.flatten();
        let has = open.any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| sockets.iter().any(|one| to.as_os_str() == one.as_str()))
        });
        let name = fs::read_to_string(path.join("comm")).ok().filter(|_| has)?;
        Some(format!("{} (process {pid})", name.trim()))
    })
}

/// Lists the sockets of a table that have a port, as descriptors name them: `socket:[INODE]`.
fn sockets(table: &str, port: u16, tcp: bool) -> Vec<String> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let here = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (here == port && (!tcp || *state == LISTENS)).then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn whoever_has_a_port_is_named() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        for port in [udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port()] {
            let found = holder(port).unwrap();
            assert!(found.ends_with(&format!("(process {})", std::process::id())), "{found}");
        }
        let free = udp.local_addr().unwrap().port();
        drop(udp);
        assert_eq!(holder(free), None);
    }

    #[test]
    fn connections_through_a_port_do_not_have_it() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1D1D 0100007F:A001 01 0:0 00:0 0 0 0 77 1\n";
        assert_eq!(sockets(table, 0x1d1d, true), Vec::<String>::new());
        assert_eq!(sockets(&table.replace(" 01 ", " 0A "), 0x1d1d, true), ["socket:[77]"]);
    }
}
