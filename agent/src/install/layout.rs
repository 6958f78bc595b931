//! Pure: where the files of an installed agent go, for root, for a user, and in a package.

use std::path::{Path, PathBuf};

use super::{SERVICE, Scope};

/// Where a package manager puts the unit; the second name is that of systems whose `/lib` is apart.
pub const PACKAGED: [&str; 2] =
    ["/usr/lib/systemd/system/agent.service", "/lib/systemd/system/agent.service"];
/// Where `agent install` of root's puts it.
pub const BY_ROOT: &str = "/etc/systemd/system/agent.service";

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whose it is.
    pub scope: Scope,
    /// The program.
    pub program: PathBuf,
    /// The service.
    pub unit: PathBuf,
    /// Completions of bash, zsh and fish.
    pub completions: [PathBuf; 3],
    /// The directory of the manual pages.
    pub manual: PathBuf,
    /// What two host firewalls are told of our ports.
    pub firewalls: Option<Firewalls>,
    /// What was written, so that just that is removed. In a package its manager knows.
    pub record: Option<PathBuf>,
}

/// Files that host firewalls read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewalls {
    /// The profile of ufw.
    pub ufw: PathBuf,
    /// The service of firewalld.
    pub firewalld: PathBuf,
}

impl Layout {
    /// Lays out what root installs from a tarball.
    pub fn system(prefix: &Path) -> Layout {
        let share = prefix.join("share");
        Layout {
            scope: Scope::System,
            program: prefix.join("bin/agent"),
            unit: BY_ROOT.into(),
            completions: [
                share.join("bash-completion/completions/agent"),
                share.join("zsh/site-functions/_agent"),
                share.join("fish/vendor_completions.d/agent.fish"),
            ],
            manual: share.join("man/man1"),
            firewalls: Some(Firewalls {
                ufw: "/etc/ufw/applications.d/agent".into(),
                firewalld: "/etc/firewalld/services/agent.xml".into(),
            }),
            record: Some(prefix.join("lib/agent/installed.json")),
        }
    }

    /// Lays out what a user installs below their home.
    pub fn user(home: &Path, prefix: &Path) -> Layout {
        let share = prefix.join("share");
        Layout {
            scope: Scope::User,
            unit: home.join(".config/systemd/user").join(SERVICE),
            firewalls: None,
            completions: [
                share.join("bash-completion/completions/agent"),
                share.join("zsh/site-functions/_agent"),
                home.join(".config/fish/completions/agent.fish"),
            ],
            ..Layout::system(prefix)
        }
    }

    /// Lays out what a package holds.
    pub fn package() -> Layout {
        let usr = Path::new("/usr");
        let share = usr.join("share");
        let firewalls = Firewalls {
            ufw: "/etc/ufw/applications.d/agent".into(),
            firewalld: "/usr/lib/firewalld/services/agent.xml".into(),
        };
        Layout {
            unit: PACKAGED[0].into(),
            completions: [
                share.join("bash-completion/completions/agent"),
                share.join("zsh/vendor-completions/_agent"),
                share.join("fish/vendor_completions.d/agent.fish"),
            ],
            firewalls: Some(firewalls),
            record: None,
            ..Layout::system(usr)
        }
    }
}
