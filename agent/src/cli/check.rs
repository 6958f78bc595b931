//! `agent net check`: how this host itself stands in the network.

use proto::{
    reachability::situation::{Mapping, Udp},
    wire::api::{AddressRow, NetCheck, RelayRow, TrafficRow},
};

use super::{
    Cx, Done,
    error::Exit,
    ui::{bytes, or_dash, set_in, table},
    value::span,
};

pub async fn run(cx: &Cx) -> Done {
    let check: NetCheck = cx.client.get("/v1/net/check").await?;
    cx.ui.show(&check, in_words);
    Ok(Exit::WELL)
}

/// Lays it out.
pub fn in_words(check: &NetCheck, width: Option<u16>) -> String {
    let mut parts = vec![format!("{}: {}", check.host, set_in(&check.because))];
    parts.extend(check.next.iter().map(|next| format!("hint: {}", set_in(next))));
    parts.extend([
        String::new(),
        format!("udp      {}", udp(check.udp)),
        format!("router   {}", router(check.nat)),
        format!("seen at  {}", or_dash(Some(check.public.join(", ")).filter(|seen| !seen.is_empty()))),
        format!("way in   {}", way_in(check)),
        format!(
            "relay    {}",
            check.relay.as_ref().map_or("none is served here".to_owned(), |url| format!("serves {url}"))
        ),
        format!("traffic  {}", traffic(&check.traffic)),
        String::new(),
        table(&["ADDRESS", "PUBLISHED", "WHY"], check.addresses.iter().map(address), width),
    ]);
    if !check.relays.is_empty() {
        parts.extend([
            String::new(),
            table(&["RELAY OF", "URL", "USE"], check.relays.iter().map(relay), width),
        ]);
    }
    parts.join("\n")
}

fn udp(udp: Udp) -> &'static str {
    match udp {
        Udp::Works => "works",
        Udp::Blocked => "does not pass; TCP does",
        Udp::Silent => "nothing answers",
        Udp::Unknown => "not known yet",
    }
}

fn router(nat: Option<Mapping>) -> &'static str {
    match nat {
        None => "not seen from two places yet",
        Some(Mapping::None) => "none in between",
        Some(Mapping::EndpointIndependent) => "gives one port for all: direct ways are found",
        Some(Mapping::EndpointDependent) => {
            "gives another port for each destination: direct ways are found to some"
        }
    }
}

fn way_in(check: &NetCheck) -> String {
    let mapped = check.mapped.as_ref().map(|at| format!("the router maps {at}"));
    let proved = check.proved.as_ref().map(|at| format!("a member has dialled {at}"));
    let fallback = check.fallback.as_ref().map(|url| format!("the fallback relay {url}"));
    let known: Vec<String> = mapped.into_iter().chain(proved).chain(fallback).collect();
    if known.is_empty() { "none was proved yet".to_owned() } else { known.join("; ") }
}

fn address(row: &AddressRow) -> Vec<String> {
    let published = if row.published { "yes" } else { "no" };
    vec![row.address.clone(), published.to_owned(), row.because.clone()]
}

fn relay(row: &RelayRow) -> Vec<String> {
    let used = match (row.home, row.connected) {
        (true, Some(true)) => "others reach this host through it",
        (true, _) => "home, and not connected",
        (false, _) => "offered",
    };
    vec![or_dash(row.host.as_ref()), row.url.clone(), used.to_owned()]
}

fn traffic(row: &TrafficRow) -> String {
    let (sent, received) = (bytes(row.sent_bytes), bytes(row.received_bytes));
    let all = format!("{sent} sent and {received} received in {}", span(row.seconds));
    match (row.idle_sent_bps, row.idle_received_bps) {
        (Some(sent), Some(received)) => {
            format!("{all}; at rest {sent:.0} and {received:.0} bytes a second")
        }
        _ => all,
    }
}
