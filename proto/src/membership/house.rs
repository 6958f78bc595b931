//! What an issuer and the root's holder owe the others: promotions and renewals.

use std::collections::BTreeSet;

use crate::{
    id::HostId,
    time::Timestamp,
    trust::{Certificate, MemberSet},
};

/// A certificate that is due, with the key that signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// The root key makes an issuer.
    ByRoot(Certificate),
    /// This host's own key renews a plain member.
    ByHost(Certificate),
}

/// Lists what this host owes now. One issuer renews each certificate: the first that is up, so that they do not
/// compete.
pub fn owed(
    set: &MemberSet,
    me: HostId,
    holds_root: bool,
    live: &BTreeSet<HostId>,
    now: Timestamp,
) -> Vec<Owed> {
    let mut owed = Vec::new();
    if holds_root {
        let promoted = set.awaiting_promotion().into_iter().filter_map(|host| set.promotion(host, now));
        owed.extend(promoted.map(Owed::ByRoot));
    }
    let members = set.members();
    let mut issuers = members.values().filter(|member| member.is_issuer());
    let first = issuers.find(|member| member.host == me || live.contains(&member.host));
    if first.is_some_and(|first| first.host == me) {
        owed.extend(members.keys().filter_map(|host| set.renewal(*host, now)).map(Owed::ByHost));
    }
    owed
}
