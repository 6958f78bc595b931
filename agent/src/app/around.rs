//! How this host itself stands in the network, and how far the hosts are from each other: what its own parts tell, and
//! what the others answer within a moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt, stream};
use mesh::{Surroundings, Tier};
use proto::{
    id::HostId,
    limits::MAX_MEMBERS,
    picture::{Member, Picture},
    reachability::{
        situation::{Signs, mapping},
        traffic::Lately,
    },
    wire::{
        api::{self, MemberState, PathKind},
        rpc::{Answer, Request, Rtt},
    },
};
use tokio::time::Instant;

use super::{ApiResult, App};

/// All answers that come are here by then.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Members that are asked at once.
const ASKED_AT_ONCE: usize = 64;
/// Places at which one member sees this host that count.
const MAX_SEEN: usize = 8;

/// What a member answered.
struct Heard {
    rtts: Vec<Rtt>,
    seen: BTreeSet<SocketAddr>,
}

impl App {
    /// Tells how this host itself stands in the network.
    pub async fn check(&self) -> ApiResult<api::NetCheck> {
        let answers = self.ask_around().await;
        let (picture, around) = (self.picture(), self.inner.mesh.surroundings());
        let signs = self.signs(&picture, &around);
        let outside = around.places.iter().filter(|(tier, ..)| *tier == Tier::Outside).map(|(_, at, _)| *at);
        let told = answers.values().flatten().flat_map(|heard| heard.seen.iter().copied());
        let seen: Vec<SocketAddr> = outside.chain(told).collect();
        let own = around.places.iter().filter(|(tier, ..)| *tier != Tier::Outside);
        let own: Vec<IpAddr> = own.map(|(_, at, _)| at.ip()).collect();
        let standing = signs.judge();
        let public: BTreeSet<SocketAddr> = seen.iter().copied().collect();
        let served = picture.host_record(picture.me).and_then(|record| record.reach.serves.as_ref());
        let way_in = self.inner.mesh.way_in().borrow().clone();
        let relays = self.relays(&picture, &around);
        let fallback = relays.iter().find(|relay| relay.home && relay.host.is_none());
        Ok(api::NetCheck {
            host: self.name(picture.me),
            standing,
            because: standing.to_string(),
            next: standing.next().map(str::to_owned),
            udp: signs.udp(),
            nat: mapping(&own, &seen),
            public: public.iter().map(SocketAddr::to_string).collect(),
            mapped: way_in.mapped.map(|at| at.to_string()),
            proved: way_in.claimed.filter(|_| way_in.proved).map(|at| at.to_string()),
            fallback: fallback.map(|relay| relay.url.clone()),
            relay: served.map(|offer| offer.url.clone()),
            relays,
            addresses: around.places.iter().map(address).collect(),
            traffic: traffic(&around.lately),
        })
    }

    /// Asks every member that is there how far the others are.
    pub async fn rtts(&self) -> ApiResult<api::Rtts> {
        let answers = self.ask_around().await;
        let me = self.inner.mesh.me();
        let own = Heard { rtts: self.inner.mesh.rtts(), seen: BTreeSet::new() };
        let all = answers.into_iter().chain([(me, Some(own))]);
        let (mut hosts, mut rtts, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for (host, answer) in all {
            let from = self.name(host);
            match answer {
                Some(heard) => {
                    rtts.extend(heard.rtts.iter().filter(|rtt| rtt.to != host).map(|rtt| api::RttRow {
                        from: from.clone(),
                        to: self.name(rtt.to),
                        rtt_ms: f64::from(rtt.rtt_us) / 1_000.0,
                        kind: if rtt.relayed { PathKind::Relayed } else { PathKind::Direct },
                    }))
                }
                None => silent.push(from.clone()),
            }
            hosts.push(from);
        }
        hosts.sort();
        silent.sort();
        rtts.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        Ok(api::Rtts { hosts, rtts, silent })
    }

    async fn ask_around(&self) -> BTreeMap<HostId, Option<Heard>> {
        let (picture, deadline) = (self.picture(), Instant::now() + ANSWERS_WITHIN);
        let is_there =
            |(id, member): &(&HostId, &Member)| **id != picture.me && member.state != MemberState::Down;
        let there: Vec<HostId> = picture.members.iter().filter(is_there).map(|(id, _)| *id).collect();
        let ask = |host: HostId| async move {
            let asked = self.inner.mesh.call(host, Request::Around, ANSWERS_WITHIN);
            let answer = tokio::time::timeout_at(deadline, asked).await;
            let heard = match answer {
                Ok(Ok(Answer::Around { rtts, seen })) => Some(Heard {
                    rtts: rtts.into_iter().take(MAX_MEMBERS).collect(),
                    seen: seen.into_iter().take(MAX_SEEN).collect(),
                }),
                // Silent, or of a version that does not know the question.
                _ => None,
            };
            (host, heard)
        };
        stream::iter(there).map(ask).buffer_unordered(ASKED_AT_ONCE).collect().await
    }

    fn signs(&self, picture: &Picture, around: &Surroundings) -> Signs {
        let others = picture.members.iter().filter(|(id, _)| **id != picture.me);
        let heard = others.clone().filter(|(_, member)| member.state == MemberState::Up);
        let is_direct = |(id, _): &(&HostId, &Member)| {
            let path = self.inner.mesh.path(**id);
            path.is_some_and(|(path, _)| path.kind == mesh::PathKind::Direct)
        };
        let own = picture.host_record(picture.me).and_then(|record| record.reach.serves.as_ref());
        let is_own = |url: &str| own.is_some_and(|own| bare(&own.url) == bare(url));
        let relays = around.homes.iter().filter(|home| home.is_connected && !is_own(&home.url));
        Signs {
            has_address: around.places.iter().any(|(_, at, _)| !at.ip().is_loopback()),
            others: others.count(),
            heard: heard.clone().count(),
            direct: heard.filter(is_direct).count(),
            discovered: around.places.iter().any(|(tier, ..)| *tier == Tier::Outside),
            relays: relays.count(),
        }
    }

    fn relays(&self, picture: &Picture, around: &Surroundings) -> Vec<api::RelayRow> {
        let offer = |id: &HostId| Some(picture.host_record(*id)?.reach.serves.as_ref()?.url.clone());
        let mut offered: BTreeMap<String, Option<String>> = BTreeMap::new();
        for id in picture.members.keys() {
            if let Some(url) = offer(id) {
                offered.insert(bare(&url).to_owned(), Some(self.name(*id)));
            }
        }
        for home in &around.homes {
            offered.entry(bare(&home.url).to_owned()).or_insert(None);
        }
        let row = |(url, host): (String, Option<String>)| {
            let home = around.homes.iter().find(|home| bare(&home.url) == url);
            let connected = home.map(|home| home.is_connected);
            api::RelayRow { host, home: home.is_some(), connected, url }
        };
        offered.into_iter().map(row).collect()
    }
}

/// The endpoint ends a URL with a slash, and its offer does not.
fn bare(url: &str) -> &str {
    url.trim_end_matches('/')
}

fn address((tier, at, published): &(Tier, SocketAddr, bool)) -> api::AddressRow {
    let because = match (published, tier) {
        _ if at.ip().is_loopback() => "this computer itself".to_owned(),
        (false, Tier::Default | Tier::Lan | Tier::Outside) => format!("{tier}, and others go before it"),
        _ => tier.to_string(),
    };
    api::AddressRow { address: at.to_string(), published: *published, because }
}

fn traffic(lately: &Lately) -> api::TrafficRow {
    let a_second = |bytes: u64| bytes as f64 / 60.0;
    api::TrafficRow {
        seconds: lately.counted_ms / 1_000,
        sent_bytes: lately.all.sent,
        received_bytes: lately.all.received,
        idle_sent_bps: lately.least_a_minute.map(|least| a_second(least.sent)),
        idle_received_bps: lately.least_a_minute.map(|least| a_second(least.received)),
    }
}
