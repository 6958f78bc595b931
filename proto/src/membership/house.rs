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
    let is_first = first.is_some_and(|first| first.host == me);
    for member in members.values() {
        // The root's word beats an issuer's, so that its certificates are renewed by it alone.
        let by_root = set.is_root(&member.signer);
        let Some(renewed) = set.renewal(member.host, now).filter(|_| is_first || by_root) else { continue };
        match (by_root, holds_root) {
            (true, true) => owed.push(Owed::ByRoot(renewed)),
            (true, false) => {}
            (false, _) => owed.push(Owed::ByHost(renewed)),
        }
    }
    owed
}
