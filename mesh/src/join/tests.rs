//! One of each message of a join that only this crate has.

use proto::{
    id::{HostId, MeshId, Name},
    seal::Seed,
    time::Timestamp,
    trust::{Charter, Statement},
};

use super::*;
use crate::tests::golden::bytes::Sample;

pub(crate) fn samples(reach: Reach) -> [Sample; 2] {
    let charter = Charter { name: "home".parse::<Name>().unwrap(), made: Timestamp(1_790_000_000_000) };
    let sealed = Statement::Charter(charter).seal(MeshId([6; 32]), &Seed([11; 32]));
    let welcome = Welcome { statements: vec![sealed.encode()], reaches: vec![(HostId([1; 32]), reach)] };
    [Sample::message("ready.one", Ready {}), Sample::message("welcome.one", welcome)]
}
