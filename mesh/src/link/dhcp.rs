//! The gateway's DHCP server: one guest, one address, decided by the plan long before it asks.
//! Pure: the question's bytes in, the answer's bytes out; nothing is remembered between them.

use std::net::Ipv4Addr;

use dhcproto::{
    Encodable, Name,
    v4::{DhcpOption, Message, MessageType, Opcode, OptionCode, borrowed},
};

use super::{EdgeConfig, frame};

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;
/// The address belongs to the machine for good; the shim answers renewals for as long as it lives.
const LEASE_S: u32 = 24 * 3600;

/// Some clients still drop what is shorter than a BOOTP message (RFC 1542, 2.1).
const BOOTP_BYTES: usize = 300;

/// What to send back.
pub(super) struct Reply {
    /// The DHCP message.
    pub message: Vec<u8>,
    /// Whether the guest has its address already, so that the answer can be sent to it.
    pub unicast: bool,
    /// Whether the guest has its address from now on.
    pub leased: bool,
}

/// What a guest says that matters for the answer. Read lazily and raw: dhcproto's full decoder
/// asserts on options that it expects from honest clients only.
#[derive(Default)]
struct Question {
    kind: Option<MessageType>,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<Vec<u8>>,
}

impl Question {
    fn of(message: &borrowed::Message<'_>) -> Question {
        let mut question = Question::default();
        let address = |data: &[u8]| data.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
        for option in message.opts() {
            match option.code() {
                OptionCode::MessageType => {
                    question.kind = option.data().first().map(|&kind| kind.into());
                }
                OptionCode::RequestedIpAddress => question.wanted = address(option.data()),
                OptionCode::ServerIdentifier => question.server = address(option.data()),
                OptionCode::ClientIdentifier => question.client_id = Some(option.data().to_vec()),
                _ => {}
            }
        }
        question
    }
}

/// Answers one DHCP message; `None` when it deserves no answer.
pub(super) fn answer(config: &EdgeConfig, message: &[u8]) -> Option<Reply> {
    let message = borrowed::Message::new(message).ok()?;
    let of_guest = message.opcode() == Opcode::BootRequest
        && message.hlen() == 6
        && message.chaddr() == config.guest_mac
        && message.giaddr().is_unspecified();
    let question = Question::of(&message);
    let gateway = frame::gateway(config.subnet);
    if !of_guest || question.server.is_some_and(|server| server != gateway) {
        return None;
    }
    let wanted = question.wanted.unwrap_or(message.ciaddr());
    let (kind, lease) = match question.kind? {
        MessageType::Discover => (MessageType::Offer, true),
        MessageType::Request if wanted == config.guest_address => (MessageType::Ack, true),
        MessageType::Request => (MessageType::Nak, false),
        MessageType::Inform => (MessageType::Ack, false),
        _ => return None,
    };
    let mut reply = Message::new_with_id(
        message.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &config.guest_mac,
    );
    reply.set_opcode(Opcode::BootReply).set_flags(message.flags());
    if lease {
        reply.set_yiaddr(config.guest_address);
    } else if kind == MessageType::Ack {
        reply.set_ciaddr(message.ciaddr());
    }
    let mut options = vec![DhcpOption::MessageType(kind), DhcpOption::ServerIdentifier(gateway)];
    options.extend(question.client_id.map(DhcpOption::ClientIdentifier));
    if lease {
        options.push(DhcpOption::AddressLeaseTime(LEASE_S));
    }
    if kind != MessageType::Nak {
        options.extend(settings(config, gateway));
    }
    for option in options {
        reply.opts_mut().insert(option);
    }
    let unicast = kind == MessageType::Ack && message.ciaddr() == config.guest_address;
    let mut bytes = reply.to_vec().ok()?;
    bytes.resize(bytes.len().max(BOOTP_BYTES), 0);
    let leased = lease && kind == MessageType::Ack;
    Some(Reply { message: bytes, unicast, leased })
}

/// What a guest should know, besides its address.
fn settings(config: &EdgeConfig, gateway: Ipv4Addr) -> Vec<DhcpOption> {
    let search: Vec<Name> = config.search.iter().filter_map(|name| name.parse().ok()).collect();
    let mut options = vec![
        DhcpOption::SubnetMask(frame::mask(config.subnet)),
        DhcpOption::Router(vec![gateway]),
        DhcpOption::DomainNameServer(vec![gateway]),
        DhcpOption::Hostname(config.hostname.clone()),
        DhcpOption::DomainName(config.domain.clone()),
        DhcpOption::InterfaceMtu(config.mtu),
    ];
    if !search.is_empty() {
        options.push(DhcpOption::DomainSearch(search));
    }
    options
}
