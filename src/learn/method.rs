//! Parts of the method that a comparison leaves out, to show what each is worth.
//!
//! All are on in production, and no setting switches them: a router without shrinkage is not another taste, it is a
//! worse router. They are switches at all because "it needs this" is a claim, and a claim wants a figure that one
//! command gives again (`bellwether simulate --suite ablation`). What can be left out from outside, by knobs or by what
//! the learner is told, has no switch here.

/// Which parts are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Nodes are held toward the fleet's curve, and their speeds toward one another.
    pub shrinks: bool,
    /// Predictions follow what was observed in the last seconds.
    pub corrects: bool,
    /// How many requests a node works on at once is learned.
    pub learns_slots: bool,
}

impl Default for Method {
    fn default() -> Self {
        Method { shrinks: true, corrects: true, learns_slots: true }
    }
}
