//! Pure: whom the programs of this computer ask for names, as resolv.conf(5) says it.

use std::net::IpAddr;

/// Lists the name servers of a resolv.conf, in its order. Of one on a wire of its own (`fe80::1%eth0`) the wire is left
/// out.
pub fn servers(resolv_conf: &str) -> impl Iterator<Item = IpAddr> + '_ {
    resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_c_libraries_do() {
        let file = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.168.1.1\nnameserver ::1 # us\n\
                    nameserver nonsense\nnameserver\nnameserver fe80::1%eth0\n";
        let read: Vec<String> = servers(file).map(|server| server.to_string()).collect();
        assert_eq!(read, ["192.168.1.1", "::1", "fe80::1"]);
    }
}
