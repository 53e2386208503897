//! Clusters in memory, each with a register of its own: they go down, lose their data, and answer late or not at all.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use quorate_coordination::{Failure, Fault, Random, Register, SimRegister, Versioned};

/// One cluster. Clones are the same.
#[derive(Clone)]
pub struct Cluster<S> {
    pub register: SimRegister<S>,
    down: Arc<AtomicBool>,
}

impl<S: Clone + Debug + PartialEq + Send + Sync + 'static> Cluster<S> {
    pub fn new(state: S, random: &Arc<Random>) -> Self {
        let register = SimRegister::new(state).far(Arc::clone(random), Duration::from_millis(20));
        Self { register, down: Arc::default() }
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// It has this from now on, whatever it had before.
    pub async fn restore(&self, state: &S) {
        loop {
            let now = self.register.now();
            if now.state == *state {
                return;
            }
            let _ = self.register.compare_and_swap(&now.version, state).await;
        }
    }

    /// Something befalls one of the next calls.
    pub fn befall(&self, random: &Random) {
        let faults = [Fault::LostReply, Fault::LostRequest, Fault::Delayed, Fault::FalseConflict];
        self.register.befall([faults[usize::try_from(random.bits() % 4).unwrap()]]);
        self.register.lose_reads([random.bits().is_multiple_of(2)]);
    }
}

/// A client's way to one cluster.
pub struct Link<S> {
    pub cluster: Cluster<S>,
    /// Whether the client is cut off, or dead.
    pub cut: Arc<AtomicBool>,
}

impl<S> Link<S> {
    async fn pass(&self) {
        if self.cut.load(Ordering::SeqCst) || self.cluster.down.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

impl<S: Clone + Debug + Send + Sync + 'static> Register for Link<S> {
    type State = S;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<S, u64>, Failure> {
        self.pass().await;
        let answer = self.cluster.register.read().await;
        self.pass().await;
        answer
    }

    async fn compare_and_swap(&self, base: &u64, next: &S) -> Result<u64, Failure> {
        self.pass().await;
        let answer = self.cluster.register.compare_and_swap(base, next).await;
        self.pass().await;
        answer
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<S, u64>>> {
        self.cluster.register.watch(from)
    }

    fn name(&self) -> String {
        "a cluster in memory".to_owned()
    }
}
