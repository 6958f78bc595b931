//! Dials a member back where it claims to be reached from outside, from a socket of its own: no router on the way has
//! seen it, so whatever comes through comes through for everybody. Whether it may is `proto::reachability::proof`'s to say.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use iroh::{
    Endpoint, EndpointAddr, RelayConfig, RelayUrl, TransportAddr, Watcher,
    address_lookup::memory::MemoryLookup,
};
use iroh_relay::RelayQuicConfig;
use proto::{
    facts::Fact,
    id::{Digest, HostId},
    reachability::proof::{Claim, Favours, Reached, permitted},
    wire::rpc::{Answer, Refusal},
};
use tokio::sync::{Semaphore, broadcast};

use crate::{
    clock::Clock,
    identity,
    reach::pins::Pins,
    transport::{
        endpoint::{Ports, bind_stranger},
        gate::Gate,
        protocols::LIBP2P,
    },
};

/// Dials back at once: each has a socket.
const AT_ONCE: usize = 2;
/// How long one may take.
const WITHIN: Duration = Duration::from_secs(6);
/// How often the relay is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What stands before a word that a relay is shown.
const MARK: &str = "dialled-back.";

/// The word that this host's relay waits for; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Word(Arc<Mutex<Option<(String, bool)>>>);

impl Word {
    /// Waits for this word from now on.
    pub(crate) fn expect(&self, word: &[u8; 16]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((spelled(word), false));
    }

    /// Tells whether a stranger at the relay says the word, and notes that it was said.
    pub(crate) fn is_said(&self, text: &str) -> bool {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let right = expected.as_mut().filter(|(word, _)| word == text);
        right.map(|(_, said)| *said = true).is_some()
    }

    /// Tells whether this word was said, and waits for it no more. A newer one is left alone.
    pub(crate) fn take(&self, word: &[u8; 16]) -> bool {
        let word = spelled(word);
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.take_if(|(expected, _)| *expected == word).is_some_and(|(_, said)| said)
    }
}

fn spelled(word: &[u8; 16]) -> String {
    format!("{MARK}{}", BASE64URL_NOPAD.encode(word))
}

/// Does it for others; cheap to clone.
#[derive(Clone)]
pub(crate) struct DialBack {
    gate: Gate,
    ports: Ports,
    favours: Arc<Mutex<Favours>>,
    slots: Arc<Semaphore>,
}

impl DialBack {
    pub(crate) fn new(gate: Gate, ports: Ports) -> DialBack {
        DialBack { gate, ports, favours: Arc::default(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Answers a member that wants to be dialled.
    pub(crate) async fn answer(
        &self,
        from: HostId,
        claim: Claim,
        certificate: Digest,
        word: [u8; 16],
    ) -> Answer {
        let refused = |because: &dyn std::fmt::Display| Answer::Refused(Refusal::Failed(because.to_string()));
        let seen: Vec<IpAddr> = self.gate.places(&from).iter().map(|place| place.ip()).collect();
        if let Err(because) = permitted(&claim, &seen) {
            return refused(&because);
        }
        let Ok(_slot) = self.slots.try_acquire() else { return refused(&"busy; later") };
        let favour = self.favours.lock().unwrap_or_else(PoisonError::into_inner).take(from, Clock.moment());
        if let Err(because) = favour {
            return refused(&because);
        }
        match dial(self.ports, from, claim, certificate, word).await {
            Ok(reached) => Answer::DialledBack(reached),
            Err(because) => refused(&because),
        }
    }
}

async fn dial(
    ports: Ports,
    host: HostId,
    claim: Claim,
    certificate: Digest,
    word: [u8; 16],
) -> Result<Reached, String> {
    let (facts, _) = broadcast::channel::<Fact>(1);
    let pins = Pins::new(facts);
    pins.set([certificate]);
    let lookup = MemoryLookup::with_provenance("dial back");
    let key = iroh::SecretKey::from_bytes(&rand::random());
    let endpoint = bind_stranger(key, ports, &pins, &lookup).await.map_err(|error| error.to_string())?;
    let (reached, relayed) =
        tokio::join!(by_udp(&endpoint, host, claim), by_relay(&endpoint, &pins, claim, word));
    // Its goodbyes take their time; nobody waits for them.
    tokio::spawn(async move { endpoint.close().await });
    Ok(Reached { endpoint: reached, ..relayed })
}

/// Tells whether the host itself answers at its address. That a stranger is sent away afterwards is right.
async fn by_udp(endpoint: &Endpoint, host: HostId, claim: Claim) -> bool {
    let Some(id) = identity::endpoint_id(&host) else { return false };
    let there = EndpointAddr::from_parts(id, [TransportAddr::Ip(claim.endpoint)]);
    let connected = tokio::time::timeout(WITHIN, endpoint.connect(there, LIBP2P)).await;
    matches!(connected, Ok(Ok(_)))
}

/// Tells whether relay and address discovery answer: the relay refuses the stranger by its word, and the discovery has
/// shown the certificate.
async fn by_relay(endpoint: &Endpoint, pins: &Pins, claim: Claim, word: [u8; 16]) -> Reached {
    let url = format!("http://{}", std::net::SocketAddr::new(claim.endpoint.ip(), claim.relay));
    let Ok(url) = url.parse::<RelayUrl>() else { return Reached::default() };
    let config = RelayConfig::new(url.clone(), Some(RelayQuicConfig::new(claim.discovery)));
    endpoint.insert_relay(url, Arc::new(config.with_auth_token(spelled(&word)))).await;
    let look = || {
        let homes = endpoint.home_relay_status().get();
        let relay = homes.iter().any(|home| home.auth_denied_reason() == Some(DIALLED));
        Reached { endpoint: false, relay, discovery: pins.was_shown() }
    };
    let both = async {
        loop {
            let now = look();
            if now.relay && now.discovery {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(WITHIN, both).await.ok();
    look()
}

/// What a relay says to the stranger that says its word.
pub(crate) const DIALLED: &str = "dialled back, as asked";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_once_it_is_said_and_only_as_it_is() {
        let word = Word::default();
        assert!(!word.is_said(&spelled(&[1; 16])) && !word.take(&[1; 16]));
        word.expect(&[1; 16]);
        assert!(!word.is_said(&spelled(&[2; 16])) && !word.is_said(""));
        assert!(!word.take(&[1; 16]), "nobody said it");
        word.expect(&[1; 16]);
        assert!(word.is_said(&spelled(&[1; 16])) && word.take(&[1; 16]));
        assert!(!word.take(&[1; 16]) && !word.is_said(&spelled(&[1; 16])), "once");
        word.expect(&[3; 16]);
        assert!(word.is_said(&spelled(&[3; 16])) && !word.take(&[1; 16]), "an earlier one ends late");
        assert!(word.take(&[3; 16]));
    }
}
