//! JSON for people: what the local API answers and `--json` shows. Field names are a contract
//! (DESIGN section 12): fields are added, never renamed.
//!
//! Hosts are names here, ids are hex text, times are RFC 3339 UTC, and what is not known is `null`:
//! a field is never left out. Nothing here decides or prints.

mod doctor;
mod error;
mod host;
mod image;
mod join;
mod machine;
mod net;
mod plan;
mod progress;
mod service;
mod session;
mod status;
mod token;

pub use self::{
    doctor::{
        Check, CheckState, Checks, Flows, HostFlows, Inside, Internals, Lost, MachineFlows, Outside, Packets,
        ShimInternals,
    },
    error::{Error, ErrorBody, Kind},
    host::{HostIssuer, HostLoss, HostOut, HostPutOut, HostRename, HostRow, Hosts, SessionLoss},
    image::{ImageImport, ImagePull, ImageRow, Images},
    join::{Again, HostRef, Initialised, JoinRequest, Joined, Left, MeshRef, RestoreRequest, Restored},
    machine::{LoginAnswer, LoginRequest, MachineRow, Machines, SshAccess},
    net::{AddressRow, NetCheck, PathRow, Paths, Pinged, Pings, RelayRow, RttRow, Rtts, TrafficRow},
    plan::{
        Diagnostics, PlanChange, PlanFetch, PlanObstacle, PlanRejection, PlanReport, PlanRequest, UpAnswer,
    },
    progress::{Progress, Step},
    service::{
        LanRow, PublishedRow, ServiceClosed, ServiceForwarded, ServiceFound, ServiceNamed, ServiceOpened,
        ServicePublish, ServicePublished, ServiceRow, ServiceUnpublish, ServiceUnpublished, Services,
    },
    session::{
        DownProgress, Fetching, Remaining, SessionRow, SessionState, SessionStatus, Sessions, UpProgress,
    },
    status::{Member, MemberState, Path, PathKind, Status, ThisHost, Trouble, Understands, Warning},
    token::{Named, TokenCreate, TokenCreated, TokenRow, Tokens},
};
