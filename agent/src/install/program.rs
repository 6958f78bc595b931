//! What a program of ours says of itself, before anybody trusts it with what another one wrote.

use serde::{Deserialize, Serialize};

/// What `agent --version --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Always `agent`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it was built for.
    pub arch: String,
    /// The layout of data directories that it reads and writes.
    pub layout: u32,
}

/// Why a program may not take the place of this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is something else.
    #[error("it calls itself {0:?}")]
    Other(String),
    /// It is for other computers.
    #[error("it is made for {found}, and this computer is {here}")]
    Arch {
        /// What it is for.
        found: String,
        /// What this computer is.
        here: String,
    },
    /// It would refuse the data directory.
    #[error("it uses data directories of layout {found}, and those of this host are of layout {here}")]
    Layout {
        /// Its own.
        found: u32,
        /// That of this program.
        here: u32,
    },
}

impl About {
    /// Says it of this very program.
    pub fn this() -> About {
        About {
            name: "agent".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            layout: crate::host::disk::LAYOUT,
        }
    }

    /// Tells whether another program may take this one's place: older or newer, it must read what is here.
    pub fn fits(&self, other: &About) -> Result<(), Unfit> {
        if other.name != self.name {
            return Err(Unfit::Other(other.name.clone()));
        }
        if other.arch != self.arch {
            return Err(Unfit::Arch { found: other.arch.clone(), here: self.arch.clone() });
        }
        if other.layout != self.layout {
            return Err(Unfit::Layout { found: other.layout, here: self.layout });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_for_this_computer_that_reads_what_is_here_fits() {
        let this = About::this();
        let newer = About { version: "9.0.0".into(), ..this.clone() };
        assert_eq!(this.fits(&newer), Ok(()));
        let layout = this.layout + 1;
        assert_eq!(
            this.fits(&About { layout, ..newer.clone() }),
            Err(Unfit::Layout { found: layout, here: this.layout })
        );
        assert!(matches!(
            this.fits(&About { arch: "riscv64".into(), ..newer.clone() }),
            Err(Unfit::Arch { .. })
        ));
        assert_eq!(
            this.fits(&About { name: "busybox".into(), ..newer }),
            Err(Unfit::Other("busybox".into()))
        );
    }
}
