//! What only a running daemon can tell `agent doctor`: the proved accelerator, the name server's
//! port, the relays it has and the members it reaches. Pure: the daemon gathers, [`judge`] decides.

use std::net::SocketAddr;

use proto::{
    reasons::NoKvm,
    session::Accelerator,
    wire::api::{Check, CheckState},
};

use super::{KVM_ABSENT, KVM_DENIED, check, ok};

/// What the daemon knows.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// The proved QEMU: version, accelerator, and why hardware is not used.
    pub qemu: Option<(String, Accelerator, Option<NoKvm>)>,
    /// Why no machine can run here.
    pub no_qemu: Option<String>,
    /// Where names are answered.
    pub dns: Option<SocketAddr>,
    /// Who has the only port that they may be answered on.
    pub no_names: Option<String>,
    /// The relay that this host serves.
    pub serves: Option<String>,
    /// The relays through which this host is reached.
    pub relays: Vec<String>,
    /// Members that are not there.
    pub down: Vec<String>,
    /// Members in all, this host included.
    pub members: usize,
    /// How far the clock is off, if it is.
    pub clock_off: Option<String>,
}

/// What sets a clock right.
pub const MEND_CLOCK: &str = "timedatectl set-ntp true";

/// Decides what the daemon's knowledge means. These checks replace those of the same name that were
/// only guessed from outside.
pub fn judge(inside: &Inside) -> Vec<Check> {
    vec![accelerator(inside), names(inside), relay(inside), mesh(inside), clock(inside)]
}

fn accelerator(inside: &Inside) -> Check {
    match &inside.qemu {
        Some((version, Accelerator::Kvm, _)) => {
            ok("accelerator", format!("KVM, proved at speed with QEMU {version}"))
        }
        Some((version, Accelerator::Tcg, refused)) => {
            let because = refused.as_ref().map(|because| format!("; {because}")).unwrap_or_default();
            let what = format!("QEMU {version} translates: machines run 10 to 30 times slower{because}");
            check("accelerator", CheckState::Limited, what, refused.as_ref().and_then(mend))
        }
        None => {
            let asked = || "QEMU is still being asked what it can do: look again in a moment".to_owned();
            let what = inside.no_qemu.as_ref().map(|because| format!("no machine can run here: {because}"));
            let what = what.unwrap_or_else(asked);
            check("accelerator", CheckState::Limited, what, None)
        }
    }
}

/// Names the command against the reason for which hardware is not used, where there is one.
fn mend(refused: &NoKvm) -> Option<String> {
    match refused {
        NoKvm::Denied { .. } => Some(KVM_DENIED.to_owned()),
        NoKvm::Absent => Some(KVM_ABSENT.to_owned()),
        _ => None,
    }
}

fn names(inside: &Inside) -> Check {
    match inside.dns {
        Some(address) => ok("names", format!("answered at {address}")),
        None if let Some(taken) = &inside.no_names => {
            let mend =
                "end it, then start the agent anew    or set dns.port, then agent dns setup".to_owned();
            check("names", CheckState::Missing, taken, Some(mend))
        }
        None => {
            let mend = "agent run --set dns.port=auto".to_owned();
            check("names", CheckState::Missing, "the name server has no port", Some(mend))
        }
    }
}

fn relay(inside: &Inside) -> Check {
    match (&inside.serves, &inside.relays[..]) {
        (Some(url), _) => ok("relay", format!("this host serves {url}")),
        (None, [_, ..]) => ok("relay", format!("reached through {}", inside.relays.join(", "))),
        (None, []) => {
            let what = "no relay: hosts behind other routers may not find this one";
            let mend = "agent run --set relay.serve=on    on a host with a public address".to_owned();
            check("relay", CheckState::Limited, what, Some(mend))
        }
    }
}

fn mesh(inside: &Inside) -> Check {
    match &inside.down[..] {
        [] => ok("mesh", format!("all {} hosts are up", inside.members)),
        down => {
            let what = format!("{} of {} hosts not up: {}", down.len(), inside.members, down.join(", "));
            let nobody = down.len() + 1 == inside.members;
            let next = if nobody { "agent net check" } else { "agent host list" };
            check("mesh", CheckState::Limited, what, Some(next.to_owned()))
        }
    }
}

fn clock(inside: &Inside) -> Check {
    match &inside.clock_off {
        None => ok("clock", "nobody in the mesh contradicts it"),
        Some(what) => check("clock", CheckState::Limited, what.clone(), Some(MEND_CLOCK.to_owned())),
    }
}
