//! The rules of a host that a world may break, where they are broken by what the heart is shown.

use std::collections::BTreeSet;

use crate::{
    run::{Mutant, Rules},
    session::{
        Share,
        reconcile::{Observed, ShimProcess},
    },
};

/// Bends what `reconcile` sees as a broken rule would. Gives the share that it is to see, if not the true one.
pub(super) fn bend(rules: Rules, share: &Share, observed: &mut Observed) -> Option<Share> {
    if rules == Rules::default() {
        return None;
    }
    let mut bent = share.clone();
    let launched = observed.machines.iter().filter(|(_, seen)| seen.launched.is_some());
    let again: BTreeSet<_> = launched.map(|(machine, _)| machine.group.clone()).collect();
    for (name, group) in &mut bent.directory.groups {
        if rules.broken(Mutant::IgnoresNeeds)
            || (rules.broken(Mutant::IgnoresNeedsLater) && again.contains(name))
        {
            group.needs.clear();
        }
    }
    if rules.broken(Mutant::IgnoresDrops) {
        bent.drops.clear();
    }
    for seen in observed.machines.values_mut() {
        if rules.broken(Mutant::TakesSilenceForDeath) && matches!(seen.shim, ShimProcess::Unseen { .. }) {
            seen.shim = ShimProcess::None;
        }
        if rules.broken(Mutant::ActsWhileBusy) {
            seen.busy = false;
        }
    }
    for spec in &share.machines {
        let Some(seen) = observed.machines.get_mut(&spec.machine) else { continue };
        if rules.broken(Mutant::StartsUnasked) {
            seen.granted = Some(spec.epoch);
        }
        if let (true, Some(launched)) = (rules.broken(Mutant::StartsOnOldDisks), &mut seen.launched) {
            launched.epoch = launched.epoch.max(spec.epoch);
        }
    }
    Some(bent)
}
