use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::fault::Stage;

/// Holds the next call of an endpoint, until it is released or dropped.
#[derive(Debug)]
pub struct Gate {
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Armed,
    Held,
    Released,
}

/// The side of the call.
pub(super) struct Barrier {
    pub(super) stage: Stage,
    phase: watch::Sender<Phase>,
}

impl Gate {
    pub(super) fn new(stage: Stage) -> (Self, Barrier) {
        let phase = watch::Sender::new(Phase::Armed);
        (Self { phase: phase.clone() }, Barrier { stage, phase })
    }

    /// Whether a call is held now.
    pub fn is_held(&self) -> bool {
        *self.phase.borrow() == Phase::Held
    }

    /// Waits until a call is held, for so long at the most, and says whether one is. It blocks the thread.
    pub fn wait_until_held(&self, patience: Duration) -> bool {
        let started = Instant::now();
        while !self.is_held() && started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.is_held()
    }

    /// Waits until a call is held.
    pub async fn held(&self) {
        let mut phases = self.phase.subscribe();
        // The sender is this gate's own: it cannot be gone.
        phases.wait_for(|phase| *phase != Phase::Armed).await.ok();
    }

    /// Lets the call go on.
    pub fn release(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Released);
    }
}

impl Barrier {
    /// Whether its gate is gone already.
    pub(super) fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Released
    }

    /// Waits at the gate.
    pub(super) async fn pass(&self) {
        let mut phases = self.phase.subscribe();
        self.phase.send_if_modified(|phase| {
            let armed = *phase == Phase::Armed;
            if armed {
                *phase = Phase::Held;
            }
            armed
        });
        phases.wait_for(|phase| *phase == Phase::Released).await.ok();
    }
}
