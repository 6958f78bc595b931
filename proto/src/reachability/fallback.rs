//! Relays of strangers, for a host that has no own way: to meet, and as the last resort. What they carry is encrypted end
//! to end. They are used while no relay of a member is reached, and left as soon as one may be; members that are missed
//! are dialled through them as well.
//!
//! ```text
//!   own ──no own relay for a moment──► foreign ──another own relay is offered, or it is time to look──► own
//! ```

use std::{collections::BTreeSet, str::FromStr};

use super::relays::Home;
use crate::{
    backoff::BackOff,
    id::{Digest, HostId},
    time::Moment,
    wire::record::RelayOffer,
};

/// Foreign relays of one host.
const MAX_FALLBACK: usize = 8;
/// What stands for the certificate of a relay that shows one of the public authorities.
pub const BY_AUTHORITY: Digest = Digest([0; 32]);

/// As long as an own relay may be silent, or be looked for.
const SILENCE_MS: u64 = 3_000;
/// Before own relays are tried again that were not reached.
const LOOK_AGAIN: BackOff = BackOff::new(30_000, 1_800_000);
/// How long an own relay must hold before the next loss counts as the first.
const SETTLED_MS: u64 = 60_000;
/// Before a member is missed: most come back by themselves.
const MISSED_MS: u64 = 8_000;
/// How long members that are missed are dialled through foreign relays without a pause.
const SOUGHT_MS: u64 = 600_000;
/// And then for so long in each such time.
const SOUGHT_AGAIN_MS: u64 = 60_000;
/// Where relays of iroh answer address discovery unless they say another port.
const DISCOVERY: u16 = 7842;

/// Which relays the owner lets this host fall back on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign(Vec<RelayOffer>);

/// A list of foreign relays has a mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoForeign {
    /// An entry is no relay.
    #[error("{0:?} is no relay: https://HOST, or http://IP:PORT#PORT-CERTIFICATE")]
    Entry(String),
    /// There are too many.
    #[error("at most {MAX_FALLBACK} relays")]
    TooMany,
}

impl Foreign {
    /// Lists them.
    pub fn relays(&self) -> &[RelayOffer] {
        &self.0
    }

    /// Lists their URLs.
    pub fn urls(&self) -> Vec<String> {
        self.0.iter().map(|relay| relay.url.clone()).collect()
    }

    /// Tells whether a URL is that of one of them.
    pub fn has(&self, url: &str) -> bool {
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        self.0.iter().any(|relay| plain(&relay.url) == plain(url))
    }

    /// Spells their URLs as somebody else does; those that cannot be spelled are left out.
    pub fn spelled(self, spell: impl Fn(RelayOffer) -> Option<RelayOffer>) -> Foreign {
        Foreign(self.0.into_iter().filter_map(spell).collect())
    }
}

/// Reads a list: `[]`, or URLs in quotes or bare, with commas between.
impl FromStr for Foreign {
    type Err = NoForeign;

    fn from_str(text: &str) -> Result<Foreign, NoForeign> {
        let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
        let words = bare.split(',').map(|word| word.trim().trim_matches('"'));
        let relays = words.filter(|word| !word.is_empty()).map(entry);
        let relays: Vec<RelayOffer> = relays.collect::<Result<_, _>>()?;
        if relays.len() > MAX_FALLBACK { Err(NoForeign::TooMany) } else { Ok(Foreign(relays)) }
    }
}

/// Reads `URL` or `URL#PORT-CERTIFICATE`: the port of its address discovery, and the hash of what that shows.
fn entry(text: &str) -> Result<RelayOffer, NoForeign> {
    let wrong = || NoForeign::Entry(text.to_owned());
    let (url, pinned) = text.split_once('#').map_or((text, None), |(url, pinned)| (url, Some(pinned)));
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or_else(wrong)?;
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]/".contains(&byte);
    if rest.is_empty() || rest.len() > 200 || !rest.bytes().all(may) {
        return Err(wrong());
    }
    let (qad_port, certificate) = match pinned {
        None => (DISCOVERY, BY_AUTHORITY),
        Some(pinned) => {
            let (port, certificate) = pinned.split_once('-').ok_or_else(wrong)?;
            (port.parse().map_err(|_| wrong())?, certificate.parse().map_err(|_| wrong())?)
        }
    };
    Ok(RelayOffer { url: url.to_owned(), qad_port, certificate })
}

/// What is seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The home relays.
    pub homes: &'a [Home],
    /// Relays that members offer, this host's own among them.
    pub own: &'a BTreeSet<String>,
    /// Members that could be dialled and are not connected.
    pub missed: &'a BTreeSet<HostId>,
    /// There is nobody to be met: no other member, and no token that would lead one here.
    pub alone: bool,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Fallback {
    foreign: Foreign,
    on: bool,
    since: Moment,
    /// No own relay is reached since then.
    lost: Option<Moment>,
    held: Option<Moment>,
    tries: u32,
    /// Own relays that were offered and not reached.
    tried: BTreeSet<String>,
    missed: Option<Moment>,
    lends: bool,
}

impl Fallback {
    /// Begins with own ways.
    pub fn new(foreign: Foreign) -> Fallback {
        Fallback { foreign, ..Fallback::default() }
    }

    /// Gives the foreign relays that are used now.
    pub fn used(&self) -> &[RelayOffer] {
        if self.on { self.foreign.relays() } else { &[] }
    }

    /// Gives all of them: their certificates are known before they are used, and after.
    pub fn all(&self) -> &[RelayOffer] {
        self.foreign.relays()
    }

    /// Gives the relays through which members that are missed are dialled as well.
    pub fn lent(&self) -> Vec<String> {
        if self.lends { self.foreign.urls() } else { Vec::new() }
    }

    /// Looks around. Tells whether other relays are used now, and whether others are lent.
    pub fn note(&mut self, seen: Outlook<'_>, now: Moment) -> (bool, bool) {
        if self.foreign.relays().is_empty() {
            return (false, false);
        }
        let was = self.on;
        self.switch(seen, now);
        let lends = self.seeks(seen, now);
        let lent = std::mem::replace(&mut self.lends, lends) != lends;
        (self.on != was, lent)
    }

    fn switch(&mut self, seen: Outlook<'_>, now: Moment) {
        let is_own = |home: &Home| home.is_connected && seen.own.contains(&home.url);
        if seen.homes.iter().any(is_own) {
            self.lost = None;
            if now.since_ms(*self.held.get_or_insert(now)) >= SETTLED_MS {
                self.tries = 0;
            }
            self.turn(false, now);
            return;
        }
        self.held = None;
        if seen.alone {
            self.lost = None;
            self.turn(false, now);
            return;
        }
        if self.on {
            // Ever later: a member that offers another one all the time keeps nobody from a way that works.
            let rested = self.tries == 0 || now.since_ms(self.since) >= SILENCE_MS << self.tries.min(9);
            let is_new = rested && seen.own.iter().any(|url| !self.tried.contains(url));
            let due = !seen.own.is_empty()
                && now.since_ms(self.since) >= LOOK_AGAIN.after_ms(self.tries.saturating_add(1));
            if is_new || due {
                self.tries = self.tries.saturating_add(1);
                self.lost = Some(now);
                self.turn(false, now);
            }
            return;
        }
        if now.since_ms(*self.lost.get_or_insert(now)) >= SILENCE_MS {
            self.tried = seen.own.clone();
            self.turn(true, now);
        }
    }

    fn turn(&mut self, on: bool, now: Moment) {
        if self.on != on {
            (self.on, self.since) = (on, now);
        }
    }

    fn seeks(&mut self, seen: Outlook<'_>, now: Moment) -> bool {
        if seen.missed.is_empty() {
            self.missed = None;
            return false;
        }
        let missed_ms = now.since_ms(*self.missed.get_or_insert(now));
        // Who is on foreign relays alone has nothing to wait for.
        let begins_ms = if self.on { 0 } else { MISSED_MS };
        missed_ms >= begins_ms && (missed_ms < SOUGHT_MS || missed_ms % SOUGHT_MS < SOUGHT_AGAIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment(1_000_000);
    const OWN: &str = "http://vps/";
    const FOREIGN: &str = "https://relay.example/";

    fn home(url: &str) -> Vec<Home> {
        vec![Home { url: url.to_owned(), is_connected: true }]
    }

    /// Looks once: at which relay this host is, which are offered, how many are missed.
    fn look(fallback: &mut Fallback, at: &str, own: &[&str], missed: u8, now: Moment) -> bool {
        let own = own.iter().map(|url| url.to_string()).collect();
        let missed = (0..missed).map(|byte| HostId([byte; 32])).collect();
        let homes = if at.is_empty() { Vec::new() } else { home(at) };
        fallback.note(Outlook { homes: &homes, own: &own, missed: &missed, alone: false }, now);
        !fallback.used().is_empty()
    }

    fn begin() -> Fallback {
        Fallback::new(FOREIGN.parse().unwrap())
    }

    #[test]
    fn foreign_relays_are_used_without_an_own_one_and_left_for_it() {
        let mut fallback = begin();
        assert!(!look(&mut fallback, "", &[], 0, START));
        assert!(!look(&mut fallback, "", &[], 0, START.plus_ms(SILENCE_MS - 1)));
        assert!(look(&mut fallback, "", &[], 0, START.plus_ms(SILENCE_MS)));
        let later = START.plus_ms(3_600_000);
        assert!(look(&mut fallback, FOREIGN, &[], 0, later), "there is nothing to try");
        assert!(!look(&mut fallback, FOREIGN, &[OWN], 0, later), "one is offered: at once");
        assert!(!look(&mut fallback, OWN, &[OWN], 0, later.plus_ms(1_000)));
        assert!(!look(&mut fallback, OWN, &[OWN], 0, later.plus_ms(3_600_000)));
    }

    #[test]
    fn an_own_relay_that_is_not_reached_is_tried_ever_less_often() {
        let mut fallback = begin();
        let (mut away, mut trials, mut was) = (0, 0, false);
        for second in 0..86_400u64 {
            let on = look(&mut fallback, "", &[OWN], 0, START.plus_ms(second * 1000));
            away += u64::from(!on);
            trials += u64::from(was && !on);
            was = on;
        }
        assert!((45..60).contains(&trials), "{trials}");
        assert_eq!(away, 3 * (trials + 1), "each costs three seconds");
    }

    #[test]
    fn a_member_that_offers_another_relay_all_the_time_costs_a_few_seconds_now_and_then() {
        let mut fallback = begin();
        let away = (0..3_600u64).filter(|second| {
            let url = format!("http://lie-{second}/");
            !look(&mut fallback, "", &[&url], 0, START.plus_ms(second * 1000))
        });
        let away = away.count();
        assert!(away <= 40, "{away} s of an hour");
    }

    #[test]
    fn nobody_is_met_by_a_host_that_is_alone() {
        let (mut fallback, none) = (begin(), BTreeSet::new());
        for second in 0..100 {
            let seen = Outlook { homes: &[], own: &none, missed: &BTreeSet::new(), alone: true };
            assert_eq!(fallback.note(seen, START.plus_ms(second * 1000)), (false, false));
        }
        let mut without = Fallback::new("[]".parse().unwrap());
        assert!(
            !look(&mut without, "", &[], 1, START) && !look(&mut without, "", &[], 1, START.plus_ms(99_000))
        );
    }

    #[test]
    fn who_is_missed_is_dialled_through_them_as_well_and_after_a_while_now_and_then() {
        let mut fallback = begin();
        look(&mut fallback, OWN, &[OWN], 0, START);
        let sought = (0..7_200u64).filter(|second| {
            look(&mut fallback, OWN, &[OWN], 1, START.plus_ms(second * 1000));
            !fallback.lent().is_empty()
        });
        let sought: Vec<u64> = sought.collect();
        assert_eq!(sought.first(), Some(&(MISSED_MS / 1000)));
        assert_eq!(sought.len() as u64, 592 + 11 * 60);
        assert!(!look(&mut fallback, OWN, &[OWN], 0, START.plus_ms(7_200_000)));
        assert!(fallback.lent().is_empty());
        let mut without = begin();
        look(&mut without, "", &[], 1, START);
        look(&mut without, "", &[], 1, START.plus_ms(SILENCE_MS));
        assert_eq!(without.lent(), [FOREIGN], "at once by who has no other way");
    }

    #[test]
    fn a_list_is_read_as_settings_and_variables_write_it() {
        let read = |text: &str| text.parse::<Foreign>().map(|foreign| foreign.urls());
        assert_eq!(read("[]"), Ok(vec![]));
        assert_eq!(read(""), Ok(vec![]));
        let two = vec!["https://a.example".to_owned(), "https://b.example./".to_owned()];
        assert_eq!(read("[\"https://a.example\", \"https://b.example./\"]"), Ok(two.clone()));
        assert_eq!(read("https://a.example,https://b.example./"), Ok(two));
        let pinned = format!("http://203.0.113.1:7440#7441-{}", Digest([7; 32]));
        let foreign: Foreign = pinned.parse().unwrap();
        let offer = RelayOffer {
            url: "http://203.0.113.1:7440".into(),
            qad_port: 7441,
            certificate: Digest([7; 32]),
        };
        assert_eq!(foreign.relays(), [offer]);
        assert!(foreign.has("http://203.0.113.1:7440/") && !foreign.has("http://203.0.113.2:7440/"));
        for wrong in ["relay.example", "ftp://a", "https://", "https://a b", "http://a#7441", "http://a#x-y"]
        {
            assert_eq!(read(wrong), Err(NoForeign::Entry(wrong.to_owned())), "{wrong}");
        }
        let many = ["https://a.example"; MAX_FALLBACK + 1].join(",");
        assert_eq!(read(&many), Err(NoForeign::TooMany));
    }
}
