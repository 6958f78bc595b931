//! What the members understand, and who understands less than the others. Members that were cut off or left do not
//! count; one that is away counts with what it told last, one that never told with the first level.

use super::{Member, Picture};
use crate::{
    level::{self, Level},
    wire::api::{self, MemberState},
};

/// Gives what every member of the mesh understands.
pub fn mesh_level(picture: &Picture) -> Level {
    level::lowest(counting(picture).map(understood))
}

/// Lists the members that understand less than another one.
pub fn behind(picture: &Picture) -> Vec<api::Understands> {
    let highest = counting(picture).map(understood).max().unwrap_or_default();
    below(picture, highest)
}

/// Lists the members that understand less than this, by name.
pub fn below(picture: &Picture, level: Level) -> Vec<api::Understands> {
    let less = counting(picture).filter(|member| understood(member) < level);
    let told = |member: &Member| api::Understands { host: member.name.to_string(), level: member.level };
    let mut below: Vec<_> = less.map(told).collect();
    below.sort_by(|a, b| a.host.cmp(&b.host));
    below
}

fn counting(picture: &Picture) -> impl Iterator<Item = &Member> {
    let counts = |member: &&Member| !matches!(member.state, MemberState::Left | MemberState::Evicted);
    picture.present().map(|(_, member)| member).filter(counts)
}

fn understood(member: &Member) -> Level {
    member.level.unwrap_or_default()
}
