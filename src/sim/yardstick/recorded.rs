//! Every request to the node that the recording says: to see how well emulated servers repeat recorded ones, the same
//! requests must come to the same nodes.

use super::Foresight;
use crate::policy::{Context, Policy};

/// Repeats recorded decisions; where the node is not a candidate, or nothing is recorded, all are equally likely.
#[derive(Debug)]
pub struct AsRecorded {
    foresight: Foresight,
    names: Vec<String>,
}

impl AsRecorded {
    /// Reads what the driver writes into `foresight`; `names` are those of the scenario's nodes, in its order.
    pub fn new(foresight: Foresight, names: Vec<String>) -> AsRecorded {
        AsRecorded { foresight, names }
    }
}

impl Policy for AsRecorded {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let name = self.foresight.recorded().and_then(|at| self.names.get(at as usize));
        let chosen =
            name.and_then(|name| ctx.candidates.iter().position(|candidate| *ctx.node(candidate).spec.name == **name));
        match chosen {
            Some(at) => out[at] = 1.0,
            None => out.fill(1.0),
        }
    }
}
