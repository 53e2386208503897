//! The command line of registers' members.

use clap::{Args, Subcommand};

/// What to do with the members of what clusters decide on.
#[derive(Subcommand, Clone, Debug)]
pub enum Members {
    /// The registers on the clusters of a set: who decides on each, and who of them is lost.
    List(MembersOf),
    /// Makes the clusters that a set names now the members of its registers.
    ///
    /// All of those have to answer, once: and of those that are members now, a majority. Edit the ClusterSet in each cluster first. Whoever uses a
    /// register goes on meanwhile, and follows. When all clusters are replaced do it in two steps, so that in each of
    /// them a majority of the members before is in the set.
    ///
    /// A member that lost its data is replaced by itself in the same way: its acceptor is made anew and joins.
    Change(MembersChange),
    /// Forgets a register that has lost its acceptors in all clusters, with what it held: whoever uses it next makes it anew.
    ///
    /// A register that is gone everywhere looks like one that never was. So the set's registry keeps which were made, and none is made twice
    /// until this was said.
    Forget(MembersForget),
}

/// A set.
#[derive(Args, Clone, Debug)]
pub struct MembersOf {
    /// The ClusterSet's name.
    #[arg(value_name = "SET")]
    pub set: String,
}

/// Arguments of members forget.
#[derive(Args, Clone, Debug)]
pub struct MembersForget {
    /// The set.
    #[command(flatten)]
    pub of: MembersOf,

    /// The register: `config.NAME`, `counter.NAME` or `lock.NAME`.
    #[arg(value_name = "REGISTER")]
    pub register: String,
}

/// Arguments of members change.
#[derive(Args, Clone, Debug)]
pub struct MembersChange {
    /// The set.
    #[command(flatten)]
    pub of: MembersOf,

    /// The registers, as members list names them; by default all that have a member among the set's clusters.
    #[arg(value_name = "REGISTER")]
    pub registers: Vec<String>,
}
