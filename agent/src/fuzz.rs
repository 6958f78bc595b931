//! The doors of crate `fuzz` to what is nobody else's. What they are given is what strangers write; they panic
//! where a promise is broken.

use std::{
    collections::BTreeMap,
    io::Cursor,
    net::{IpAddr, Ipv6Addr},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use hickory_proto::{op::Message, rr::Name};
use mesh::link::{HostNet, allowed};
use proto::{names::sites, session::Prefix, topology::Egress};

use crate::{
    access::{front::judge, socks},
    machine::shim::names::judge as names_judge,
};

/// Reads a DNS message, as a guest's question and as a resolver's answer.
pub fn names(bytes: &[u8]) {
    let Ok(mut message) = Message::from_vec(bytes) else { return };
    let host = HostNet::default();
    let may = |address: IpAddr| allowed(Egress::Internet, Some(&host), address);
    let mut zone = Name::from_ascii("mesh.internal").unwrap_or_default();
    zone.set_fqdn(true);
    let subnet = Prefix { base: [10, 64, 7, 0].into(), len: 24 };
    let subnet_v6 = Ipv6Addr::new(0xfd00, 0x6d65, 0x7368, 7, 0, 0, 0, 0);
    names_judge::course(&message, &zone, (subnet, subnet_v6), may);
    names_judge::harmless(&mut message, may);
    for record in message.answers.iter().chain(&message.authorities).chain(&message.additionals) {
        assert!(record.data.ip_addr().is_none_or(may), "{record} leads where the guest may not go");
    }
    // What cannot be written again is answered by nothing.
    drop((message.to_vec(), message.truncate().to_vec()));
}

/// Reads the head of a browser's request: a line `PATH`, then lines `NAME: VALUE`.
pub fn front(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let Some(Ok(uri)) = lines.next().map(Uri::try_from) else { return };
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let mut halves = line.splitn(2, |&byte| byte == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = halves.next().and_then(|value| HeaderValue::from_bytes(value.trim_ascii()).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let Ok(site) = judge::judge(7080, &Method::GET, &uri, &headers) {
        let ours = site == sites::DOMAIN || site.ends_with(&format!(".{}", sites::DOMAIN));
        assert!(ours, "{site:?} came in");
        // Nothing runs, so it is the index or no site.
        drop(sites::site(&BTreeMap::new(), &site));
    }
}

/// Reads what a program says first to the SOCKS port.
pub fn socks(bytes: &[u8]) {
    let mut client = tokio::io::join(Cursor::new(bytes), tokio::io::sink());
    // Everything is there at once, so nothing waits.
    drop(futures::executor::block_on(socks::read(&mut client)));
}
