//! The life of shims below clients of a protocol: the shims are upgraded, killed and replaced at any moment.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::engine::{descriptors, left};
use super::plan::Plan;
use super::random::Random;
use super::upgrade;
use super::world::{Daemon, SECOND, Shared, SimulatedWorld};
use crate::Supervisor;
use crate::frontend::upgradable::Upgradable;
use windlass_sys::kernel::{self, Release};

/// Longest simulated time of the end.
const END: u64 = 1800 * SECOND;

/// The shim is killed at one of this many calls of a turn.
const CALLS: u64 = 120;

/// Longest simulated time in which a busy machine does not run the shim.
pub(super) const STARVED: u64 = 4 * SECOND;

/// Clients of a protocol.
pub(super) trait Clients: Daemon {
    /// The shim's side of the protocol.
    type Front: Upgradable;

    /// Starts a shim with a new container.
    fn begin(&mut self, outside: &RefCell<SimulatedWorld>, core: &mut Supervisor) -> Result<Self::Front, String>;

    /// Whether no new container is begun.
    fn is_over(&self) -> bool;

    /// The shim has ended with this status.
    fn left(&mut self, status: i32, outside: &SimulatedWorld) -> Result<(), String>;

    /// The shim was killed, and `init` lives. Returns the shim that adopts it, if the protocol allows that.
    fn killed(
        &mut self,
        init: Option<i32>,
        outside: &SimulatedWorld,
        core: &mut Supervisor,
    ) -> Result<Option<Self::Front>, String>;

    /// Forgets the container, with everything that was reported of it.
    fn reset(&mut self);

    /// The condition that the clients still wait for.
    fn why(&self) -> String;
}

/// Runs a plan. An error describes the fault.
pub(super) fn live<C: Clients + 'static>(plan: &Plan, directory: &Path, clients: C) -> Result<(), String> {
    let outside = Rc::new(RefCell::new(SimulatedWorld::new(plan)));
    kernel::set_world(Rc::new(RefCell::new(Shared(outside.clone()))));
    let before = descriptors();
    let clients = Rc::new(RefCell::new(clients));
    outside.borrow_mut().daemon = Some(clients.clone());
    outside.borrow_mut().wake_daemon(0);
    let result = shims(plan, &outside, &clients);
    let fault = kernel::take_fault().map_or(result, Err);
    clients.borrow_mut().reset();
    outside.borrow_mut().leave();
    fault?;
    // Processes that outlive the shim end by themselves.
    for (pid, _) in kernel::processes() {
        kernel::release(pid, Release::Go);
    }
    kernel::settle();
    let alive: Vec<(i32, bool)> = kernel::processes().into_iter().filter(|(_, ended)| !ended).collect();
    if !alive.is_empty() {
        return Err(format!("processes are left: {alive:?}"));
    }
    kernel::forget();
    left(directory, before)
}

fn shims<C: Clients>(plan: &Plan, outside: &RefCell<SimulatedWorld>, clients: &RefCell<C>) -> Result<(), String> {
    let text = |failed: windlass_sys::SyscallError| failed.to_string();
    let mut random = Random::new(plan.seed ^ 0x09);
    let mut until: Option<u64> = None;
    let mut next = None;
    loop {
        let (mut core, mut front) = match next.take() {
            Some(shim) => shim,
            None => {
                let mut core = Supervisor::new().map_err(text)?;
                let front = clients.borrow_mut().begin(outside, &mut core)?;
                (core, front)
            }
        };
        let status = serve(plan, &mut random, &mut until, (&mut core, &mut front), clients)?;
        if let Some(status) = status {
            drop((front, core));
            // Running calls of the runtime die with their parent.
            outside.borrow_mut().lose_shim();
            clients.borrow_mut().left(status, &outside.borrow())?;
        } else {
            upgrade::kill(&mut core, Some(&front))?;
            std::mem::forget(front);
            let init = outside.borrow_mut().lose_shim();
            let front = clients.borrow_mut().killed(init, &outside.borrow(), &mut core)?;
            next = front.map(|front| (core, front));
        }
        if next.is_none() {
            outside.borrow_mut().delete();
            clients.borrow_mut().reset();
            if clients.borrow().is_over() {
                return Ok(());
            }
        }
    }
}

/// Serves until the shim ends, with this status, or is killed.
fn serve<C: Clients>(
    plan: &Plan,
    random: &mut Random,
    until: &mut Option<u64>,
    (core, front): (&mut Supervisor, &mut C::Front),
    clients: &RefCell<C>,
) -> Result<Option<i32>, String> {
    loop {
        if plan.has("upgrades") && random.chance(2) {
            upgrade::upgrade(core, Some(front))?;
        }
        if plan.has("starvation") && random.chance(1) {
            kernel::starve(random.any_size(STARVED));
        }
        let dies = plan.has("crashes") && random.chance(1) && !clients.borrow().is_over();
        let after = dies.then(|| random.below(CALLS));
        // The world goes on for ever, even if nothing in it concerns the shim.
        let Some(status) = kernel::unless_killed(after, || turn(core, front, *until)) else { return Ok(None) };
        kernel::take_fault().map_or(Ok(()), Err)?;
        if let Some(status) = status? {
            return Ok(Some(status));
        }
        if clients.borrow().is_over() {
            let until = *until.get_or_insert(kernel::now() + END);
            if kernel::now() >= until {
                return Err(format!("it does not end: {}", clients.borrow().why()));
            }
        }
    }
}

/// [`crate::front::run`] with the simulated clock.
fn turn(core: &mut Supervisor, front: &mut impl crate::Front, until: Option<u64>) -> Result<Option<i32>, String> {
    while let Some(event) = core.next_event() {
        front.event(event, core);
    }
    if let Some(status) = front.finished(core) {
        return Ok(Some(status));
    }
    let deadline = front.deadline().into_iter().chain(until.map(windlass_sys::clock::at)).min();
    for (key, ready) in core.turn(deadline).map_err(|failed| failed.to_string())? {
        front.ready(key, ready, core);
    }
    let now = windlass_sys::clock::now();
    if front.deadline().is_some_and(|deadline| deadline <= now) {
        front.due(now, core);
    }
    Ok(None)
}
