//! A fleet of emulated servers on a thread of its own, apart from the runtime of whoever uses it.
//!
//! A proxy under measurement must not share its runtime with the servers behind it: their tasks would delay its own.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Emulator, EmulatorSpec};
use crate::sim::SimFleet;

/// Emulated servers and their thread. Dropped, all end.
#[derive(Debug)]
pub struct EmulatedFleet {
    nodes: Vec<Emulator>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmulatedFleet {
    /// Starts the nodes of `fleet` on free ports of loopback.
    ///
    /// # Errors
    /// No thread, or no port.
    pub fn start(fleet: &SimFleet, seed: u64) -> io::Result<EmulatedFleet> {
        let specs = fleet.nodes.iter().map(|node| EmulatorSpec::new(node.name.clone(), node.server)).collect();
        EmulatedFleet::start_specs(specs, seed)
    }

    /// Starts servers of these specs.
    ///
    /// # Errors
    /// No thread, or an address that cannot be listened on.
    pub fn start_specs(specs: Vec<EmulatorSpec>, seed: u64) -> io::Result<EmulatedFleet> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let nodes = runtime.block_on(start_all(specs, seed))?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("emulators".to_owned()).spawn(move || {
            // An order to stop and a dropped sender mean the same.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(EmulatedFleet { nodes, stop: Some(stop), thread: Some(thread) })
    }

    /// The servers, in the order of the fleet.
    pub fn nodes(&self) -> &[Emulator] {
        &self.nodes
    }

    /// Stops all and waits for the thread.
    pub fn stop(self) {}
}

impl Drop for EmulatedFleet {
    fn drop(&mut self) {
        self.nodes.clear();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; ours is to end.
            let _ = thread.join();
        }
    }
}

async fn start_all(specs: Vec<EmulatorSpec>, seed: u64) -> io::Result<Vec<Emulator>> {
    let mut nodes = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        nodes.push(Emulator::start(spec, seed.wrapping_add(index as u64)).await?);
    }
    Ok(nodes)
}
