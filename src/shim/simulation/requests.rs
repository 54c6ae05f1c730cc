//! The turns of clients: a number of requests at any time, and then what brings everything to its end.

use super::plan::Plan;
use super::random::Random;
use super::world::{Happens, MILLISECOND, SECOND, SimulatedWorld};

/// Clients that ask for a number of things.
pub(super) trait Requests {
    /// Most time from one step of the end to the next.
    const END_PAUSE: u64 = 2 * SECOND;

    fn random(&mut self) -> &mut Random;

    /// How many requests are still to be made.
    fn remaining(&mut self) -> &mut u64;

    /// Asks for anything.
    fn ask_something(&mut self, happens: &mut Vec<Happens>);

    /// Takes a step towards the end, when nothing goes wrong any more: everything ends, is read and is deleted.
    fn finish(&mut self, happens: &mut Vec<Happens>);

    /// Most time from one request to the next.
    fn pause(&mut self, _outside: &SimulatedWorld) -> u64 {
        3 * SECOND
    }
}

/// One turn of the clients, to which `happens` belongs already. Returns the time until the next, and what happens.
pub(super) fn turn<R: Requests>(
    clients: &mut R,
    outside: &SimulatedWorld,
    mut happens: Vec<Happens>,
) -> (u64, Vec<Happens>) {
    if *clients.remaining() > 0 {
        *clients.remaining() -= 1;
        clients.ask_something(&mut happens);
        if *clients.remaining() == 0 {
            happens.push(Happens::Kindness);
        }
        let most = clients.pause(outside);
        return (clients.random().any_size(most), happens);
    }
    clients.finish(&mut happens);
    (clients.random().within(MILLISECOND, R::END_PAUSE), happens)
}

/// How long the clients are away, if they go now.
pub(super) fn absence(plan: &Plan, random: &mut Random, outside: &SimulatedWorld) -> Option<u64> {
    if outside.is_kind || !plan.has("outages") || !random.chance(8) {
        return None;
    }
    let most = if random.chance(20) { 3600 * SECOND } else { 20 * SECOND };
    Some(random.any_size(most))
}
