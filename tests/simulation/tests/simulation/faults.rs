//! The faults of a run.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    laws::operation,
    machine,
    plan::Fault,
    process::Process,
    world::{Inner, World},
};

/// The processes, of which some replace killed ones.
pub type Processes = std::sync::Arc<std::sync::Mutex<Vec<Process>>>;

/// Injects faults until it is dropped.
pub async fn inject(world: World, processes: Processes) {
    loop {
        world.pause(400).await;
        let (fault, which) = {
            let inner = &mut *world.lock();
            if inner.random.u32(..4) == 0 {
                inner.take_snapshot();
            }
            let Some(fault) = pick(inner) else { return };
            (fault, inner.random.usize(..inner.plan.processes))
        };
        let process = processes.lock().expect("never held over a panic")[which].clone();
        world.note(|| format!("fault: {fault:?}, process {}", process.line));
        match fault {
            Fault::Kill => {
                process.kill(&world);
                let line = world.act(|inner| inner.new_line());
                let id = operation::Process { run: process.id.run + 1, ..process.id };
                let next = Process::start(&world, id, line).await;
                processes.lock().expect("never held over a panic")[which] = next;
            }
            Fault::Partition | Fault::Delay | Fault::Slow => {
                world.act(|inner| begin(inner, fault, process.line));
                let time = world.below(1_200);
                sleep(Duration::from_millis(time)).await;
                world.act(|inner| end(inner, process.line));
            }
            Fault::WallClock => {
                let shift = set_ahead_or_back(&world);
                match &process.clock {
                    Some(clock) => {
                        let (now, shift) = (clock.now(), Duration::from_millis(shift.unsigned_abs()));
                        clock.set(if shift.as_millis() % 2 == 0 { now + shift } else { now - shift });
                    }
                    None => machine::shift_wall(shift),
                }
            }
            _ => world.act(|inner| begin(inner, fault, process.line)),
        }
    }
}

fn pick(inner: &mut Inner) -> Option<Fault> {
    let faults = &inner.plan.faults;
    (!faults.is_empty()).then(|| faults[inner.random.usize(..faults.len())])
}

/// Returns a number of milliseconds by which a clock is set wrong.
fn set_ahead_or_back(world: &World) -> i64 {
    let inner = &mut *world.lock();
    let most = [1_000, 30_000, 86_400_000][inner.random.usize(..3)];
    inner.random.i64(-most..most)
}

fn begin(inner: &mut Inner, fault: Fault, line: usize) {
    match fault {
        Fault::Cut => inner.cut_all(line),
        Fault::CutOne => {
            let links = inner.links_of(line);
            if !links.is_empty() {
                let id = links[inner.random.usize(..links.len())];
                inner.cut(id);
            }
        }
        Fault::Partition => {
            let directions = inner.random.usize(1..4);
            let line = inner.lines.entry(line).or_default();
            (line.from_process, line.to_process) = (directions & 1 != 0, directions & 2 != 0);
        }
        Fault::Delay => {
            let late = inner.random.u64(10..300);
            inner.lines.entry(line).or_default().late = late;
        }
        Fault::Slow => inner.slow = true,
        Fault::Pause => {
            let time = inner.random.u64(10..1_500);
            inner.pause_server(time);
        }
        Fault::RestartEmpty => inner.restart(false),
        Fault::RestartOlder => inner.restart(true),
        Fault::Flush => inner.flush(),
        Fault::Evict => inner.evict(),
        Fault::Kill | Fault::WallClock => {}
    }
}

/// Ends all faults of a process that last.
pub fn end(inner: &mut Inner, line: usize) {
    inner.slow = false;
    inner.heal(line);
}
